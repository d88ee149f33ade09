"""Who may decide, about what, until when."""
