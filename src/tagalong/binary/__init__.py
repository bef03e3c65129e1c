"""Bytes to values and back, without any I/O: layouts that formats are made of.

Private: its values are those of the formats that use it.
"""
