"""VictoriaMetrics, single node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from tests.servers import debian
from tests.servers.process import free_port, running

PACKAGES = ("victoria-metrics",)


def program() -> Path:
    """The server's binary."""
    return debian.root("victoria", PACKAGES) / "usr" / "bin" / "victoria-metrics"


@contextmanager
def victoria_metrics(folder: Path) -> Iterator[str]:
    """An empty server; its base address. New series can be queried after `flush`, else after about 10 s."""
    port = free_port()
    argv = [
        str(program()), f"-storageDataPath={folder / 'victoria'}", f"-httpListenAddr=127.0.0.1:{port}",
        "-retentionPeriod=30d", "-memory.allowedBytes=256MiB",
        "-search.latencyOffset=0s",  # else the last 30 s stay hidden
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with running(argv, health=f"{url}/health", log=folder / "victoria.log", cwd=folder):
        yield url


def flush(url: str) -> None:
    """Makes everything written so far visible to queries."""
    httpx2.get(f"{url}/internal/force_flush", timeout=10.0, trust_env=False).raise_for_status()
