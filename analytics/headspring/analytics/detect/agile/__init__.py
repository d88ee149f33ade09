"""Agile tier: forecasts that learn online, and how far a series is from them."""
