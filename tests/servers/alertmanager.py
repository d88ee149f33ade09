"""Alertmanager, delivering to a webhook."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import debian
from tests.servers.process import free_port, running

PACKAGES = ("prometheus-alertmanager",)
_TEMPLATES = b"/usr/share/prometheus/alertmanager"
"""Debian's build reads its templates from this absolute path."""


def prepare() -> Path:
    """Brings the server into the cache; where it is."""
    return debian.root("alertmanager", PACKAGES)


def program() -> tuple[Path, Path]:
    """(binary, folder to run it in). The binary's template path is made relative to that folder."""
    unpacked = debian.root("alertmanager", PACKAGES)
    original = unpacked / "usr" / "bin" / "prometheus-alertmanager"
    patched = original.with_name("alertmanager-relative")
    if not patched.exists():
        # Same length, so that nothing in the binary moves: "././…/." is the folder it runs in.
        here = (b"./" * len(_TEMPLATES))[: len(_TEMPLATES)]
        partial = patched.with_suffix(f".{os.getpid()}")
        partial.write_bytes(original.read_bytes().replace(_TEMPLATES, here))
        shutil.copymode(original, partial)
        partial.rename(patched)
    return patched, unpacked / "usr" / "share" / "prometheus" / "alertmanager"


@contextmanager
def alertmanager(folder: Path, *, webhook: str, api_key: str = "") -> Iterator[str]:
    """A server that sends every alert, and its end, to `webhook` after a second; its base address."""
    port = free_port()
    hook: dict[str, object] = {"url": webhook, "send_resolved": True}
    if api_key:
        hook["http_config"] = {"authorization": {"type": "Bearer", "credentials": api_key}}
    config = {
        "route": {
            "receiver": "hook", "group_by": ["alertname"], "group_wait": "1s", "group_interval": "1s",
            "repeat_interval": "1h",
        },
        "receivers": [{"name": "hook", "webhook_configs": [hook]}],
    }  # fmt: skip
    file = folder / "alertmanager.yml"
    file.write_text(json.dumps(config))
    binary, where = program()
    argv = [
        str(binary), f"--config.file={file}", f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with running(argv, health=f"{url}/-/ready", log=folder / "alertmanager.log", cwd=where):
        yield url
