"""The ways for a VMM to touch tagged guest memory without tag check faults.

`host` says what a way needs of the machine it runs on, `routines` names the A64 code that
does the work.
"""
