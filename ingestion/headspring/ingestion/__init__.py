"""Telemetry, alerts and changes from outside: received, checked, normalised, made durable, acknowledged."""
