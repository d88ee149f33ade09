"""An estate's operations API that keeps the promise of `Idempotency-Key`: a key that comes again has no effect."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Operations:
    """Counts requests and effects by key. GET shows a service; POST does something to it, and takes a while."""

    def __init__(self, *, delay_s: float, effect: Callable[[str], None]) -> None:
        """
        Args:
            delay_s: How long a POST takes.
            effect: What a restart does; called with the service's name, once for each key.
        """
        self.requests: Counter[str] = Counter()
        """POSTs by key, repetitions included."""
        self.effects: Counter[str] = Counter()
        """What was done, by key."""
        self.open: set[str] = set()
        """Keys whose answer is on its way."""
        self._lock = threading.Lock()
        operations = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"state": "running"})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                key = self.headers.get("Idempotency-Key", "")
                with operations._lock:
                    operations.requests[key] += 1
                    operations.open.add(key)
                    first = not operations.effects[key]
                    operations.effects[key] += first
                if first:
                    effect(self.path.split("/")[2])
                time.sleep(delay_s)
                self._answer({"done": self.path})
                operations.open.discard(key)

            def _answer(self, body: dict[str, str]) -> None:
                data = json.dumps(body).encode()
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except (BrokenPipeError, ConnectionResetError):
                    return  # the caller was killed: that is what the test does

            def log_message(self, format: str, *args: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
