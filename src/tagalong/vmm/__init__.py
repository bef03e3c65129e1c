"""A running VM: run states, the QMP control socket, migrations, and the client for it all.

states        run states by QMP's names, and the moves between them
vm            the VM: machine, run state, events
handover      who may let the guest run while a migration hands it over
watcher       notices that a machine ended
framing       bytes into QMP messages
messages      QMP's messages as values; arguments checks them
session       one client's conversation, without I/O
server        sessions on a unix socket, made by socketfile
commands      what the control socket can do; census counts tags
record        what is known of a migration
outgoing      migrates the VM away; incoming awaits one; transfer joins both to tagalong.migrate
factory       machines by name; guest finds guest programs
console       the guest's output
launch        the process of one VM; announcement is what it says, parent its tie to a parent
client        the other end of the control socket; relocate moves a VM through it
advice        what to do after a failed migration; causes, interrupt help the commands
"""
