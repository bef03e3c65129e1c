"""Migration measured: ours, QEMU's, and plain processes, in one run.

guest        the content of guest RAM, the same for all
plain        two Python processes that copy, with no protocol, no tags and no checksums
ours         a destination process, ready, and a migration to it
qemu         two QEMUs, paused, ready, and a migration between them; qemu_file, into a file and back
sample       what one migration took; series, all of them in turn, again and again
congestion   one congestion control for all, in a network namespace
sparse       a large guest that has used little
tls, zstd    encrypted and compressed, ours and QEMU's
churn        a guest that works, over a link that is just fast enough; heap, what its tags take
"""
