"""Artifacts as files and as objects of MinIO: put, put again and get, of small models and large ones.

Run: `python tests/benchmarks/bench_artifacts.py` from the repository root; one minute, MinIO from the cache of test
servers. Both stores get the same calls, in turn, in one run.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.measure import about, cpu_s, heading, write
from tests.servers.minio import minio

from headspring.models.artifacts.files import FileArtifactStore
from headspring.models.artifacts.minio_store import MinioArtifactStore
from headspring.models.artifacts.port import ArtifactStore

MIB = 1024 * 1024
SIZES = {"100 KiB": (100 * 1024, 40), "5 MiB": (5 * MIB, 10), "100 MiB": (100 * MIB, 3)}
"""Size in bytes, and how many of it."""


def timed(calls: Sequence[Callable[[], object]], pids: list[int]) -> tuple[float, float]:
    """Median wall seconds of a call, and CPU seconds of all processes a call."""
    took = []
    cpu = sum(map(cpu_s, pids))
    for call in calls:
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return statistics.median(took), (sum(map(cpu_s, pids)) - cpu) / len(calls)


def measure(store: ArtifactStore, pids: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (size, count) in SIZES.items():
        contents = [os.urandom(size) for _ in range(count)]
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        steps: dict[str, list[Callable[[], object]]] = {
            "put": [partial(store.put, content) for content in contents],
            "put again": [partial(store.put, content) for content in contents],
            "get": [partial(store.get, digest) for digest in digests],
        }
        found[name] = {}
        for step, calls in steps.items():
            wall, cpu = timed(calls, pids)
            found[name][step] = {
                "ms": round(1000 * wall, 2), "mib_per_s": round(size / MIB / wall, 1), "cpu_ms": round(1000 * cpu, 1),
            }  # fmt: skip
    return found


def main() -> None:
    where = about("bench_artifacts.py")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        results = {"files": measure(FileArtifactStore(folder / "artifacts"), [os.getpid()])}
        with minio(folder) as server:
            store = MinioArtifactStore(server.url, user=server.user, password=server.password, bucket="models")
            # The server is a child of this process, so its CPU time is in this one's sum.
            results["minio"] = measure(store, [os.getpid()])
            store.close()
    write("artifacts", {"about": where, **results}, text(where, results))


def text(where: dict[str, Any], results: dict[str, dict[str, Any]]) -> str:
    lines = []
    for size in SIZES:
        for step in ("put", "put again", "get"):
            cells = [
                f"{one['ms']} | {one['mib_per_s']} | {one['cpu_ms']}"
                for one in (results[store][size][step] for store in ("files", "minio"))
            ]
            lines.append(f"| {size} | {step} | {' | '.join(cells)} |\n")
    return (
        heading("Artifacts as files and as objects of MinIO", where)
        + "Median of 40, 10 and 3 calls. Every put is durable on return, every read computes the digest again; what is "
        "put again is read and compared, and nothing is sent. MinIO runs beside this process on the same machine and "
        "disk; CPU is of both together.\n\n"
        "| size | call | files ms | MiB/s | CPU ms | MinIO ms | MiB/s | CPU ms |\n|---|---|---|---|---|---|---|---|\n"
        + "".join(lines)
    )  # fmt: skip


if __name__ == "__main__":
    main()
