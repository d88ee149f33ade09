"""`headspring migrate`: what an embedded installation knows, into the servers of a distributed one.

Each part of it (`parts.py`) copies in pages, may be repeated, and proves itself by count and digest on both sides.
"""
