"""Recent spans, for diagnosis."""
