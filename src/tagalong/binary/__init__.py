"""Bytes to values and back, without any I/O.

layout   byte tables of fixed fields
elf      headers of ELF files

Private: its values are those of the formats that use it.
"""
