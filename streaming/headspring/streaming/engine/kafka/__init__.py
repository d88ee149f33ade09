"""The engine on Kafka: processes of a role share partition numbers. Needs the extra `distributed`; nothing that the
embedded shape imports imports this."""
