"""What travels over the control socket, as typed values that both ends share.

A VM's process (vmm) and its client (control) import this room and not each other. `to_qmp` is the
one place where a value becomes JSON, `from_qmp` the one place where JSON becomes a value, and
`from_qmp` believes nothing: the other end of the socket may be hostile or of another version.

json_fields   reads the members of a JSON object, each with its type and range
knobs         what a setting is: its type, its range, where it goes
settings      the settings of migrations, one declaration each
migration     a migration: what is asked for, how far it is
saving        a snapshot or a dump: what is asked for, how far it is
reports       what either cost, and its JSON form
census        how many granules carry a tag
devices       disks
failure       an error that ended one of them
events        an event, such as STOP
access_wish   the access strategy that a command asks for

Private: scripts use the commands with --json, or QMP.
"""
