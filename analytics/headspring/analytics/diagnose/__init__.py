"""From an incident to its cause: ranked hypotheses with evidence, or an honest "none"."""
