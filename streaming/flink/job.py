"""Submits the window job: reads it as JSON from standard input, hands it to Flink, prints the job's id.

Runs in Flink's own environment and imports nothing of Headspring; `headspring flink submit` calls it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway
from pyflink.table import StreamTableEnvironment


def submit(job: dict[str, Any]) -> str:
    """The id of the job, which runs on when this returns. `job` is what `engine/flink/sql.py` calls the payload."""
    config = Configuration()
    for name, value in job["config"].items():
        config.set_string(name, value)
    # `get_execution_environment` runs a script that was not started by `flink run` in a cluster inside itself.
    java = get_gateway().jvm
    remote = java.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment(config._j_configuration)
    tables = StreamTableEnvironment.create(StreamExecutionEnvironment(remote))
    for statement in job["statements"]:
        tables.execute_sql(statement)
    windows = job["windows"]
    java.headspring.flink.Windows.createView(
        tables._j_tenv,
        windows["samples"],
        windows["view"],
        windows["window_ns"],
        windows["pane_ns"],
        windows["slide_ms"],
        windows["lateness_ns"],
        windows["rows_per_batch"],
        windows["delay_ms"],
        windows["patience_ms"],
        windows["forget_ms"],
    )
    client = tables.execute_sql(job["insert"]).get_job_client()
    if client is None:
        raise RuntimeError("Flink took the statement and made no job of it")
    return str(client.get_job_id())


if __name__ == "__main__":
    print(json.dumps({"job_id": submit(json.load(sys.stdin))}))
