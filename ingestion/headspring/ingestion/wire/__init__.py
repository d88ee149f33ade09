"""Bytes of metric requests to columns: a compiled scanner and its plain reference."""
