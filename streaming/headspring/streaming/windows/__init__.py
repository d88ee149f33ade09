"""Sliding windows over metric samples, kept as mergeable panes."""
