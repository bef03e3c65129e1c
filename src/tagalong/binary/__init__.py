"""Bytes to values and back, without any I/O: layouts that formats are made of."""
