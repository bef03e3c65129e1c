"""The other end of a control socket: commands that act on a VM in another process.

client        talks to a control socket through the qemu.qmp package
migration     moves a VM; saving, snapshots and dumps of it
vm_control    the small commands: status, stop, cont, cancel, events, quit
advice        what to do after a migration that failed
cancellation  what becomes of work whose command was cancelled
interrupt     runs a command's work until a signal; interrupted says which

Private: scripts use the command, or QMP.
"""
