"""Logs, alerts and incidents: kept, listed, searched."""
