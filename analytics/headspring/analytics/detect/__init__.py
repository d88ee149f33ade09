"""Anomalies in series: windows' features in, alerts out."""
