"""The door: people and programs. HTTP API, CLI, web UI, and the runtime that puts everything together."""
