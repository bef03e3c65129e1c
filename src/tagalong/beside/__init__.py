"""Carries the tags of another VMM's guest beside that VMM's own migration.

A VMM such as QEMU runs under a preloaded library (native/beside), which gives its VM tags and
reaches them in the VMM's own process. This process beside it speaks with that library, with the
VMM by QMP, and with its like at the other host by the migration stream, in which the tags of pages
are all that is sent.

link_format  what library and process say to each other; link, the client of it
guest        the VM as a Machine, so that the migration engine carries its tags
arriving     the same at the destination
staying      the same if the destination has its memory already
monitor      the VMM's own QMP monitor, for threads
harvested    tags that came with a harvest, until they are sent
switchover   when the VMM has stopped its guest for good: the moment for the last tags
driving      the VMM's migration, if it is ours to drive
vmm_settings the VMM's settings before that, in a file
outgoing     tags that leave, and the VMM's migration if we are to drive it
incoming     tags that arrive, and the hold that keeps the guest from running before they have
pages        the guest's memory and registers, to be looked at
dump         a core of the guest
commands     the control socket
process      the VMM under the library, and this process beside it, from start to end
command      the VMM's command line: what it needs, and what it must not have

docs/design/beside.md has the argument why no granule is wrong.

Private: scripts use `tagalong beside`.
"""
