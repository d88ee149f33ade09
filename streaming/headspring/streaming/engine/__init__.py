"""Engines run stages: read from the log, process, write to the log, commit."""
