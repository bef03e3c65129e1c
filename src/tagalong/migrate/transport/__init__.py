"""How the bytes of a migration travel; nothing here knows the protocol, or pages.

address    URIs: tcp, unix, fd, exec and file
channel    blocking byte channels over sockets, every wait limited
tls        TLS 1.3 with certificates on both sides
connector  the source's end of a connection; listener, the destination's end of every address
replay     streams out of files, commands and pipes
sink       the files, commands and pipes themselves; inherited, descriptors from the parent process
"""
