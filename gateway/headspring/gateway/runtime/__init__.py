"""Composition: settings, the embedded runtime, servers, health."""
