"""Incidents like this one."""
