"""From diagnosis to outcome: plan, ask, act, validate, roll back, tell, remember."""
