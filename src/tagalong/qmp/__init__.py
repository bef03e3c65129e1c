"""QMP, the control protocol of QEMU (docs/interop/qmp-spec.rst), and its server.

framing      cuts bytes into messages
messages     requests, replies, errors and events as values
arguments    checks a command's arguments against a small schema
session      one client's conversation, without any I/O
server       sessions on a Unix socket, which tagalong.socket_files creates

Private: scripts use QMP clients.
"""
