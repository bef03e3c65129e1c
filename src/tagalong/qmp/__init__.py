"""QMP, the control protocol of QEMU (docs/interop/qmp-spec.rst), and its server.

Operators and tools of QEMU guests know QMP; `qmp-shell` and the public `qemu.qmp` package work
here unchanged. Our own commands use that package as their client, so every command tests it.

framing      cuts bytes into messages
messages     requests, replies, errors and events as values
arguments    checks a command's arguments against a small schema
descriptors  receives descriptors that come with a command
table        finds a command by name and checks what it was given
session      one client's conversation, without any I/O
server       sessions on a Unix socket, which tagalong.socket_files creates

Private: scripts use QMP clients.
"""
