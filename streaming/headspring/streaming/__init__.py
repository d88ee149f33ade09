"""How data moves and is remembered for a moment: event log, windows, features, engines."""
