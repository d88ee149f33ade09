"""The event log on Kafka. Needs the extra `distributed`; nothing that the embedded shape imports imports this.

::

    connection = KafkaConnection("kafka-1:9092,kafka-2:9092", security_protocol="SASL_SSL", sasl_mechanism="PLAIN",
                                 username="headspring", password=...)
    log = await KafkaLog.open(connection, clock=SystemClock())
    await log.append("alerts", [Record(key=..., value=..., time_ns=...)])    # acknowledged on return
    consumer = await log.consumer("alerts", "analytics.correlate")
    records = await consumer.poll()
    await consumer.commit(consumer.positions())
    await log.close()

An engine that shares partitions among processes finds what it needs at `KafkaLog.connection`, `.cluster`,
`.snapshots`, `.partitions`, `.schema` and `.kafka_name`.
"""
