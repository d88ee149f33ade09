"""Which version of a model is a candidate, in shadow, the champion or retired."""
