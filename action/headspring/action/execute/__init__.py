"""Executors: the only code of the platform that has effects outside it."""
