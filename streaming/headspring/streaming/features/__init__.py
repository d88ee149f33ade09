"""Series derived from other telemetry: what spans say about services and the calls between them."""
