"""For bench_flink_windows: what Flink's own hopping windows cost over the same samples. Runs in Flink's environment.

Statements as JSON from standard input; prints the job's id. No rates, no lateness per series, no features written:
less work than ours, so its figure is an upper bound for windows in plain SQL.
"""

from __future__ import annotations

import json
import sys

from pyflink.common import Configuration
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.java_gateway import get_gateway
from pyflink.table import StreamTableEnvironment

job = json.load(sys.stdin)
config = Configuration()
for name, value in job["config"].items():
    config.set_string(name, value)
remote = get_gateway().jvm.org.apache.flink.streaming.api.environment.StreamExecutionEnvironment(
    config._j_configuration
)
tables = StreamTableEnvironment.create(StreamExecutionEnvironment(remote))
for statement in job["statements"]:
    tables.execute_sql(statement)
client = tables.execute_sql(job["insert"]).get_job_client()
print(json.dumps({"job_id": str(client.get_job_id())}))
