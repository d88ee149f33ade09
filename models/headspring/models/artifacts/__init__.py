"""Learned parameters as bytes, kept by the digest of their content."""
