"""The web UI: pages rendered on the server that work without JavaScript."""
