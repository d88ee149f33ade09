"""From the first bad sample to the alert on the distributed shape: every role a process, every server beside them.

Run: `python tests/benchmarks/bench_stack_latency.py [SERIES]` from the repository root; about fifteen minutes. The same
load (`latency_load.py`) goes to `headspring up`, to Kafka with the windows of the role `windows`, and to Kafka with the
windows on Flink, one after the other. The last two have every server that the roles need on this same machine.

*Published* is the stamp of the alert's record on the topic `alerts`, read after the run; *readable* is when
`GET /api/v1/alerts` of the gateway, asked every 0.2 s, shows it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import bench_detection_latency, latency_load
from tests.benchmarks.latency_load import Run, Written
from tests.benchmarks.measure import about, cpu_s, heading, write
from tests.servers import stack
from tests.servers.headspring import Headspring

from headspring.proto.clock import SystemClock
from headspring.proto.topics import ALERTS, FEATURES, METRICS, SERIES
from headspring.streaming.engine.flink.sql import WindowJob
from headspring.streaming.log.kafka.connection import KafkaConnection
from headspring.streaming.log.kafka.log import KafkaLog

COUNT, SHARE = 1_000, 0.2
"""Series, and the share of them that turns bad."""
EMBEDDED, KERNEL, FLINK = "embedded", "Kafka, kernel windows", "Kafka, Flink windows"
SERVERS = (
    ("Kafka", "kafka.Kafka"), ("Neo4j", "CommunityEntryPoint"), ("Elasticsearch", "elasticsearch"),
    ("VictoriaMetrics", "victoria-metrics"), ("Redis", "redis-server"), ("PostgreSQL", "postgres"), ("MinIO", "minio"),
    ("Flink", "org.apache.flink"),
)  # fmt: skip
"""How a server is told in a list of processes."""
STEPS = {
    "sent_to_received_s": "sent → received by ingestion", "received_to_looked_s": "→ features made",
    "looked_to_alert_s": "→ alert made", "alert_to_readable_s": "→ readable at the API",
}  # fmt: skip


def run(count: int, faults: int, *, with_flink: bool) -> dict[str, Any]:
    """The load on a stack of its own, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with stack.servers(folder / "servers", _say, with_flink=with_flink) as settings:
            place = stack.configure(folder, settings)
            if with_flink:
                stack.submit(place, _say)
            with stack.roles(folder, place, _say) as found:
                site = Headspring(
                    url=found["url"], otlp_url=found["otlp"], grpc_target=found["grpc"], api_key=found["key"]
                )
                roles = {name: int(one["pid"]) for name, one in found["roles"].items()}
                played = latency_load.run(site, count, faults, lambda: _spent_s(roles))
                return latency_load.figures(played, asyncio.run(_written(settings["kafka"], played)))


async def _written(servers: str, played: Run) -> Written:
    log = await KafkaLog.open(
        KafkaConnection(servers), clock=SystemClock(), partitions=stack.PARTITIONS, replication=1,
        reads=[topic.name for topic in (ALERTS, SERIES, METRICS, FEATURES)], writes=[],
    )  # fmt: skip
    try:
        return await latency_load.written(log, played.bad)
    finally:
        await log.close()


def _spent_s(roles: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds so far of each role and each server."""
    spent: dict[str, float] = defaultdict(float, {name: cpu_s(pid) for name, pid in roles.items()})
    for process in psutil.Process().children(recursive=True):
        try:
            argv = " ".join(process.cmdline())
            name = next((name for name, mark in SERVERS if mark in argv), "")
            if name and process.pid not in roles.values():
                spent[name] += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return dict(spent)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def text(details: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The result for people."""
    job = WindowJob(kafka=KafkaConnection("unused:9092"))
    first = next(iter(runs.values()))
    lines = [
        heading("From the first bad sample to the alert, distributed", dict(details))
        + f"{first['series']} series with one sample in 5 s each, OTLP over HTTP, default settings; "
        f"{first['turned_bad']} of them turn bad at random moments and stay so. The clock starts when the request with "
        "a bad sample begins to be sent. One shape after the other, the same load; servers (one broker, "
        f"{stack.PARTITIONS} partitions, nothing replicated) and all roles share the machine with the sender. Flink "
        f"takes a checkpoint every {job.checkpoint_s:g} s ({job.guarantee}): features wait for the next one, so that "
        "detection never sees what a failure takes back.\n",
        "| kind | from, until | shape | p50 s | p90 s | p99 s | max s | missed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, words in (("known_meaning", "service latency"), ("unknown_meaning", "meaning unknown")):
        for measure, end in (
            ("decisive_sample_to_published_s", "the sample it was told with → published"),
            ("decisive_sample_to_readable_s", "the same → readable at the API"),
            ("first_bad_sample_to_readable_s", "first bad sample → readable at the API"),
        ):
            for shape, one in runs.items():
                times = one[kind][measure]
                shown = " | ".join(f"{times[name]:.2f}" if times else "-" for name in ("p50", "p90", "p99", "max"))
                missed = f"{one[kind]['missed']} of {one[kind]['turned_bad']}"
                lines.append(f"| {words} | {end} | {shape} | {shown} | {missed} |")
    base = runs[EMBEDDED]["known_meaning"]["decisive_sample_to_readable_s"]
    for shape, one in runs.items():
        times = one["known_meaning"]["decisive_sample_to_readable_s"]
        if shape != EMBEDDED and times and base:
            lines.append(
                f"\n{shape}, service latency, decisive sample to readable: {times['p50'] / base['p50']:.2f} times "
                f"embedded at p50, {times['p99'] / base['p99']:.2f} at p99."
            )
    lines += [
        "",
        "Number of the bad sample that the alert of a service's latency was told with: "
        + "; ".join(f"{shape} {_numbers(one['known_meaning']['decisive_sample'])}" for shape, one in runs.items())
        + ". Detection tells with the first one where it knows how many requests stand behind a mean, so the series of "
        "a service's rate and of its latency must be on one partition.",
    ]
    lines += ["", "Where the time goes (service latency), s p50 / p99:", "", f"| step | {' | '.join(runs)} |"]
    lines.append("|---|" + "---|" * len(runs))
    for step, words in STEPS.items():
        cells = [one["known_meaning"]["steps"][step] for one in runs.values()]
        lines.append(
            f"| {words} | " + " | ".join(f"{c['p50']:.2f} / {c['p99']:.2f}" if c else "-" for c in cells) + " |"
        )
    lines += [
        "",
        "Features and alerts are stamped when they are made; the wait until they are readable on their topic, which is "
        "Flink's checkpoint, is in the step that follows. A gauge whose meaning is unknown must be bad in two samples "
        "in a row, so 5 s of its time is the second sample's.",
        "",
        "CPU while series turned bad, in cores:",
        "",
    ]
    for shape, one in runs.items():
        parts = ", ".join(f"{name} {cores:.2f}" for name, cores in one["cores_used"].items() if cores >= 0.01)
        lines.append(
            f"- {shape}: {one['platform_cores_used']:.2f} ({parts}); load average before {one['load_before']}, "
            f"after {one['load_after']}; "
            f"requests refused {one['requests_refused']}, alerts on healthy series {one['alerts_on_healthy_series']}, "
            f"samples sent late p99 {one['sender_late_s']['p99']:.2f} s."
        )
    return "\n".join(lines)


def _numbers(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {number}" for number, count in counts.items()) or "none"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    faults = max(1, int(count * SHARE))
    details = about("bench_stack_latency.py")
    runs: dict[str, dict[str, Any]] = {}
    for shape in (EMBEDDED, KERNEL, FLINK):
        load = about("")["load_before"]
        if shape == EMBEDDED:
            runs[shape] = bench_detection_latency.run(count, faults)
        else:
            runs[shape] = run(count, faults, with_flink=shape == FLINK)
        runs[shape] |= {"load_before": load, "load_after": about("")["load_before"]}
        _say(f"{shape}: {runs[shape]['known_meaning']}")
        write("stack_latency", {"about": details, "runs": runs}, text(details, runs))  # a later shape may fail


if __name__ == "__main__":
    main()
