"""A door before an HTTP server: answers some requests itself, passes the rest on; speaks TLS where told.

For what a server of the tests cannot do by itself: refuse a sign-in, be an older version, break in the middle.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2


@dataclass(slots=True)
class Request:
    """What came to the door."""

    method: str
    path: str
    """With the query."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Answer:
    """What the door says itself."""

    status: int
    body: Any = None
    """Sent as JSON, except bytes; None for none."""
    headers: dict[str, str] = field(default_factory=dict)


_OF_THE_WAY = ("connection", "content-encoding", "content-length", "transfer-encoding")
"""Headers that say how an answer travelled, not what it is."""

Keeper = Callable[[Request], Answer | None]
"""Answers, or None to pass the request (which it may have changed) on."""


def _bytes(body: Any) -> bytes:
    if body is None or isinstance(body, bytes):
        return body or b""
    return json.dumps(body).encode()


@contextmanager
def door(keeper: Keeper, *, behind: str = "", certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """The door's base address.

    Args:
        behind: base address of the server that requests are passed on to.
        certificate: files of certificate and key; the door speaks TLS then.
    """
    passing = httpx2.Client(base_url=behind or "http://127.0.0.1:9", timeout=30.0, trust_env=False)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            said = keeper(request)
            if said is None:
                self._pass_on(request)
                return
            data = _bytes(said.body)
            self._send(said.status, {"content-type": "application/json", **said.headers}, data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def _pass_on(self, request: Request) -> None:
            headers = {k: v for k, v in request.headers.items() if k not in ("host", "content-length", "connection")}
            got = passing.request(request.method, request.path, headers=headers, content=request.body)
            kept = {k: v for k, v in got.headers.items() if k.lower() not in _OF_THE_WAY}
            self._send(got.status_code, kept, got.content)

        def _send(self, status: int, headers: dict[str, str], data: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Tests tell what went wrong."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        passing.close()
