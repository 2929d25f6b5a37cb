"""Bytes near and far: one small protocol, a file for each kind of store."""
