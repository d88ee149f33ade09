"""Executors: how a step takes effect."""
