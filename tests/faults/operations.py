"""An estate's operations API that keeps the promise of `Idempotency-Key`: a key that comes again has no effect."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SETTLE_S = 1.0
"""An answer that its caller got this long before it was killed is taken as written down by the caller."""
_HELD_S = 120.0


class Operations:
    """Counts requests and effects. GET shows a service; POST does something to it, and takes a while."""

    def __init__(self, *, delay_s: float, restarted: Callable[[str], None]) -> None:
        """
        Args:
            delay_s: How long a POST takes.
            restarted: What a restart does; called with the service's name, once for each key.
        """
        self.requests: Counter[str] = Counter()
        """POSTs by key, repetitions included."""
        self.interruptions: Counter[str] = Counter()
        """By key, how often its caller was killed before it can be held to have the answer."""
        self.effects: Counter[tuple[str, str]] = Counter()
        """How often something was done, by path and body: the same thing under two keys counts twice."""
        self.open: set[str] = set()
        """Keys whose answer is on its way."""
        self.hold_from = 0
        """From so many different keys on, answers wait until `release`; 0: none does."""
        self._released = threading.Event()
        self._answered_s: dict[str, float] = {}
        self._lock = threading.Lock()
        operations = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"state": "running"})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                key = self.headers.get("Idempotency-Key", "")
                with operations._lock:
                    first = not operations.requests[key]
                    operations.requests[key] += 1
                    operations.open.add(key)
                    operations.effects[self.path, body] += first
                    held = 0 < operations.hold_from <= len(operations.requests)
                if first and self.path.endswith("/restart"):
                    restarted(self.path.split("/")[2])
                if held:
                    operations._released.wait(_HELD_S)
                time.sleep(delay_s)
                self._answer({"done": self.path})
                with operations._lock:
                    operations.open.discard(key)
                    operations._answered_s[key] = time.monotonic()

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

    def killed(self) -> bool:
        """Notes that the caller has just been killed; whether it was waiting for an answer."""
        time.sleep(0.2)  # a request that it sent with its last breath is on its way
        with self._lock:
            recent = [key for key, at_s in self._answered_s.items() if time.monotonic() - at_s < SETTLE_S + 0.2]
            self.interruptions.update(self.open | set(recent))
            return bool(self.open)

    def release(self) -> None:
        """Answers what is held, and whatever comes, at once."""
        self._released.set()

    def close(self) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
