"""Who may do what: API keys, roles, browser sessions."""
