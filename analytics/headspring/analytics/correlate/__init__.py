"""Alerts to incidents: session gap × topology radius, split by candidate cause."""
