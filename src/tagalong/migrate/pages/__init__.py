"""How pages travel: between guest RAM and records of the stream.

sender        sends pages over one channel; sender_group, over several
receiver      puts received pages into a machine; placed, which of them it has
pump          moves a batch's data between guest RAM and a channel, in native code
compression   when data are compressed; compressor, whether a batch is
pacer         how fast a batch may leave
digest        one value for all memory and tags
"""
