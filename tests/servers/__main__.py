"""Brings the servers of the `real` tests into the cache: `python -m tests.servers [NAME…]`."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence

SERVERS: tuple[str, ...] = (
    "chromium",
    "prometheus",
    "alertmanager",
    "victoria",
    "compose_schema",
    "elasticsearch",
    "flink",
    "kafka",
    "kafka_old",
    "minio",
    "neo4j",
    "redis",
    "postgres",
)
"""Modules of this package, each with `prepare() -> Path`."""


def main(names: Sequence[str] = ()) -> int:
    """Installs what is missing; 1 if something cannot be had."""
    unknown = sorted(set(names) - set(SERVERS))
    if unknown:
        sys.stderr.write(f"no server is named {', '.join(unknown)}; wanted some of {', '.join(SERVERS)}\n")
        return 1
    missing = 0
    for number, name in enumerate(names or SERVERS, 1):
        started = time.monotonic()
        sys.stdout.write(f"[{number}/{len(names or SERVERS)}] {name}: ")
        sys.stdout.flush()
        try:
            found = importlib.import_module(f"tests.servers.{name}").prepare()
        except RuntimeError as error:
            sys.stdout.write("cannot be had\n")
            sys.stderr.write(f"{name}: {error}\n")
            missing += 1
        else:
            sys.stdout.write(f"{found} ({time.monotonic() - started:.1f} s)\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
