"""Tags of real heaps, coded as we do and as arm64's kernel would for swapped pages.

heaps       the tags of a heap: an allocator's on the embedded machine, a crash's, a Linux guest's
peer.c      the kernel's scheme, from its description, for this benchmark
contest     both over the same pages, in turn
"""
