"""The process that runs a VM.

states        run states by QMP's names, and the moves between them
vm            the VM: machine, run state, events
handover      decides who may let the guest run while a migration or a snapshot has it
watcher       notices that a machine ended
commands      what the control socket can do; census counts tags
record        what is known of a migration; save_record, of a snapshot or a dump
outgoing      migrates the VM away; incoming awaits one; transfer joins both to tagalong.migrate
saving        saves the VM to a file; storage joins it to tagalong.snapshot
factory       machines by name
console       the guest's output
launch        the process itself; announcement is what it prints, parent its tie to a parent process

Private: scripts use `tagalong run` and its control socket.
"""
