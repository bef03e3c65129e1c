"""How pages travel: between guest RAM and records of the stream.

sender        sends pages over one channel; sender_group, over several
receiver      puts received pages into a machine; placed, which of them it has
pump          moves a batch's data between guest RAM and a channel, in native code
compression   whether a batch is compressed; pacer, how fast it may leave
digest        one value for all memory and tags
"""
