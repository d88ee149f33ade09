"""Basic tier: robust statistics on every series."""
