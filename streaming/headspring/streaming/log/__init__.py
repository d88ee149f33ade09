"""Event log: durable, ordered records by topic."""
