"""Studies of tags, machines and hosts: each result is found by running something.

demo        one guest, moved between two processes
comparison  the access strategies, side by side
race        a guest's and a VMM's instructions in all their interleavings
probe       what this host can do

Private: scripts use the commands.
"""
