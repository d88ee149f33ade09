"""What the platform remembers: topology, series, documents, traces, similar incidents."""
