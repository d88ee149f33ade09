"""Prometheus, scraping what a test names and writing to where it says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers import debian
from tests.servers.process import free_port, running

PACKAGES = ("prometheus",)


def prepare() -> Path:
    """Brings the server into the cache; where it is."""
    return debian.root("prometheus", PACKAGES)


def program() -> Path:
    """The server's binary."""
    return prepare() / "usr" / "bin" / "prometheus"


@contextmanager
def prometheus(
    folder: Path, *, targets: Sequence[str] = (), remote_write: str = "", api_key: str = "", interval_s: float = 1.0
) -> Iterator[str]:
    """A server that scrapes itself and `targets` (host:port); its base address."""
    port = free_port()
    scrape = [{"job_name": "prometheus", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]
    if targets:
        scrape.append({"job_name": "checked", "static_configs": [{"targets": list(targets)}]})
    every = f"{int(interval_s * 1000)}ms"
    config: dict[str, object] = {
        "global": {"scrape_interval": every, "external_labels": {"cluster": "test"}},
        "scrape_configs": scrape,
    }
    if remote_write:
        config["remote_write"] = [
            {
                "url": remote_write, "authorization": {"type": "Bearer", "credentials": api_key},
                "queue_config": {"batch_send_deadline": "1s"},
            }
        ]  # fmt: skip
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    argv = [
        str(program()), f"--config.file={file}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}", "--web.enable-lifecycle",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with running(argv, health=f"{url}/-/ready", log=folder / "prometheus.log", cwd=folder):
        yield url
