"""vmagent of VictoriaMetrics, forwarding to a sink that discards."""

from __future__ import annotations

import socketserver
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.servers import debian
from tests.servers.process import free_port, running
from tests.servers.victoria import PACKAGES

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def vmagent(folder: Path) -> Iterator[tuple[str, int]]:
    """A vmagent with default settings, its queue in `folder`: (base address, process id)."""
    port, sink = free_port(), free_port()
    binary = debian.root("victoria", PACKAGES) / "usr" / "bin" / "vmagent"
    argv = [
        str(binary), f"-httpListenAddr=127.0.0.1:{port}", f"-remoteWrite.url=http://127.0.0.1:{sink}/api/v1/write",
        f"-remoteWrite.tmpDataPath={folder / 'vmagent-queue'}",
    ]  # fmt: skip
    discard = [sys.executable, "-m", "tests.servers.vmagent", str(sink)]
    url = f"http://127.0.0.1:{port}"
    with (
        running(discard, health=f"http://127.0.0.1:{sink}/", log=folder / "sink.log", cwd=ROOT),
        running(argv, health=f"{url}/health", log=folder / "vmagent.log", cwd=folder) as process,
    ):
        yield url, process.pid


class _Discard(BaseHTTPRequestHandler):
    """Reads a body and answers 204."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


if __name__ == "__main__":
    with socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), _Discard) as server:
        server.serve_forever()
