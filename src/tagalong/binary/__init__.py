"""Bytes to values and back, without any I/O.

layout   byte tables of fixed fields
elf      headers of ELF files
fdt      flattened device trees

Private: its values are those of the formats that use it.
"""
