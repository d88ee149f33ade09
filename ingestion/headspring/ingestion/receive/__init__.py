"""Where telemetry arrives: HTTP, gRPC, this host."""
