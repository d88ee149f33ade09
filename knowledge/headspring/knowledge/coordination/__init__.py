"""What processes share without keeping it: cache, locks, limits, cool-downs."""
