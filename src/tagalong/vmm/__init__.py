"""The process that runs a VM.

options       what the process is asked to run: a new, an arriving or a restored VM
launch        the process itself, from its options to its exit status
assembly      makes the VM's machine; factory has the kinds of machine by name (machine_names)
states        run states by QMP's names, and the transitions between them
vm            the VM: machine, run state, events
handover      the lock on starting and stopping the guest during a migration or a snapshot
watcher       notices that a machine ended
service       the control socket and the work that its commands begin
commands      the commands of the control socket; save_commands those that save the VM
census        counts tags
device_queries  tells of disks
outgoing      migrates the VM away; incoming awaits one; transfer joins both to tagalong.migrate
saving        saves the VM to a file; storage joins it to tagalong.snapshot
record        the books of a migration; save_record those of a snapshot or a dump
announcement  what the process prints about them
console       the guest's output; consoles where it goes and input comes from
console_input brings input to the guest; console_keys takes a person's commands out of it
terminal      makes the terminal raw, and as it was before
parent        ends the process with its parent
bugs          what becomes of a bug of ours in a thread that works on a VM

Private: scripts use `tagalong run` and its control socket.
"""
