"""Runbooks: what a fix looks like before anybody needs it."""
