"""Relational databases of every room: one way to open a SQLite file or PostgreSQL."""
