"""From the first bad sample to the alert: `headspring up` as a process, samples through its OTLP intake.

Run: `python tests/benchmarks/bench_detection_latency.py` from the repository root; about seven minutes. The load is
`latency_load.py`.

Two ends are measured, both on this machine's clock: *published* is the stamp of the alert's record on the topic
`alerts`, read out of the log after the run, which costs the platform nothing meanwhile; *readable* is when
`GET /api/v1/alerts` shows it, asked every 0.2 s, so it holds the store's delay and that step too.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import latency_load
from tests.benchmarks.latency_load import Run, Written
from tests.benchmarks.measure import about, cpu_s, heading, write
from tests.servers.headspring import Headspring, headspring

from headspring.proto.clock import SystemClock
from headspring.streaming.log.segments import SegmentLog


def run(count: int, faults: int) -> dict[str, Any]:
    """One size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with headspring(folder) as site:
            pid = _pid(site)
            played = latency_load.run(site, count, faults, lambda: {"headspring up": cpu_s(pid)})
        return latency_load.figures(played, asyncio.run(_written(folder / "data" / "log", played)))


async def _written(folder: Path, played: Run) -> Written:
    log = await SegmentLog.open(folder, clock=SystemClock())
    try:
        return await latency_load.written(log, played.bad)
    finally:
        await log.close()


def _pid(site: Headspring) -> int:
    """The process that listens on the platform's port."""
    port = urlsplit(site.url).port
    for process in psutil.Process().children(recursive=True):
        if any(one.laddr.port == port for one in process.net_connections(kind="tcp") if one.status == "LISTEN"):
            return int(process.pid)
    raise RuntimeError(f"nothing of ours listens on {port}")


def _row(run: dict[str, Any], kind: str, words: str, measure: str, end: str) -> str:
    figures = run[kind]
    times = figures[measure]
    shown = " | ".join(f"{times[name]:.2f}" if times else "-" for name in ("p50", "p90", "p99", "max"))
    return f"| {run['series']} | {words} | {end} | {shown} | {figures['missed']} of {figures['turned_bad']} |"


def text(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        heading("From the first bad sample to the alert", result["about"])
        + "One sample per series in 5 s, OTLP over HTTP, fsync on, default settings; series turn bad at random moments "
        "and stay so. The clock starts when the request with the first bad sample begins to be sent.\n",
        "| series | kind | until | p50 s | p90 s | p99 s | max s | missed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in result["runs"]:
        for kind, words in (("known_meaning", "service latency"), ("unknown_meaning", "meaning unknown")):
            lines += [
                _row(run, kind, words, "first_bad_sample_to_published_s", "alert published"),
                _row(run, kind, words, "first_bad_sample_to_readable_s", "readable at the API"),
                _row(run, kind, words, "second_bad_sample_to_published_s", "published, from the second bad sample"),
            ]
    lines.append("")
    for run in result["runs"]:
        lines.append(
            f"- {run['series']} series ({run['samples_per_s']:.0f} samples/s): {run['platform_cores_used']} cores used "
            f"by the platform while series turned bad, alerts on healthy series {run['alerts_on_healthy_series']}, "
            f"requests refused {run['requests_refused']}, acknowledged after p99 "
            f"{run['acknowledged_after_s']['p99']:.3f} s, `GET /api/v1/alerts` p50 "
            f"{run['alerts_request_s']['p50']:.3f} s."
        )
    lines += [
        "",
        "*Published* is the stamp of the record on the topic `alerts`; *readable* is when `GET /api/v1/alerts`, asked "
        "every 0.2 s, first shows it. A gauge whose meaning is unknown must be bad in two samples in a row: with one "
        "sample in 5 s that alone is 5 s. A strong rise of the mean latency of many requests is told with its first.",
    ]
    return "\n".join(lines)


def main() -> None:
    sizes = [(1_000, 200), (10_000, 500)]
    if len(sys.argv) > 1:
        sizes = [(int(one), max(1, int(one) // 5)) for one in sys.argv[1:]]
    details = about("bench_detection_latency.py")
    result = {"about": details, "runs": [run(count, faults) for count, faults in sizes]}
    write("detection_latency", result, text(result))


if __name__ == "__main__":
    main()
