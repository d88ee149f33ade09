"""Who calls whom, and what runs where."""
