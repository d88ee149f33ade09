"""From foreign telemetry to ours: entities, series, logs, spans, alerts, changes."""
