"""How the bytes of a migration travel; nothing here knows of pages.

address    URIs: tcp, unix, fd, exec and file
channel    blocking byte channels over sockets, every wait limited
tls        TLS 1.3 with certificates on both sides
connector  the source's end of an address; listener, the destination's
one_way    streams into and out of files, commands and pipes, which do not answer
sink       the files, commands and pipes themselves; inherited, descriptors from the parent process
"""
