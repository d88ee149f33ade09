"""The shop's customers: a steady stream of requests to the storefront, whatever it answers.

Open loop: the next request leaves when its time has come, not when the last one is answered, as with many
independent customers. Prints one JSON line of figures a second on stdout.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from headspring.gateway.demo.shop_life import exit_with

IN_FLIGHT = 64
"""Most requests under way; beyond it customers give up at once, and that counts as failed."""
BUY_SHARE = 0.5
_TIMEOUT_S = 10.0
_RECENT = 300


class Customers:
    """Sends requests and keeps the figures."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._local = threading.local()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(IN_FLIGHT)
        self._recent: deque[tuple[float, bool]] = deque(maxlen=_RECENT)
        self.sent = self.failed = 0

    def one(self, method: str, path: str) -> None:
        """One request; its failure is a figure, not an error."""
        started = time.monotonic()
        try:
            good = self._answer(method, path) < 500
        except (OSError, http.client.HTTPException):
            self._local.connection = None
            good = False
        finally:
            self._slots.release()
        self._count(good, time.monotonic() - started)

    def start(self, pool: ThreadPoolExecutor, method: str, path: str) -> None:
        if self._slots.acquire(blocking=False):
            pool.submit(self.one, method, path)
        else:
            self._count(False, 0.0)

    def figures(self) -> dict[str, float]:
        """Counts since the start; p95 and error share of the last requests."""
        with self._lock:
            recent = list(self._recent)
            sent, failed = self.sent, self.failed
        times = sorted(seconds for seconds, _ in recent)
        return {
            "sent": sent,
            "failed": failed,
            "recent_p95_s": round(times[int(0.95 * (len(times) - 1))], 4) if times else 0.0,
            "recent_error_ratio": round(sum(not good for _, good in recent) / len(recent), 4) if recent else 0.0,
        }

    def _answer(self, method: str, path: str) -> int:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_S)
            self._local.connection = connection
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        return int(response.status)

    def _count(self, good: bool, seconds: float) -> None:
        with self._lock:
            self.sent += 1
            self.failed += not good
            self._recent.append((seconds, good))


def main() -> None:
    """Runs until it is stopped or its supervisor is gone."""
    parser = argparse.ArgumentParser(prog="headspring.gateway.demo.load", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True, help="the storefront's port on loopback")
    parser.add_argument("--rate", type=float, default=15.0, help="requests a second")
    parser.add_argument("--life-fd", type=int, required=True)
    options = parser.parse_args()
    exit_with(options.life_fd)
    customers = Customers(options.port)
    rng = random.Random()  # noqa: S311 - jitter, not a secret
    due = reported = time.monotonic()
    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="customer") as pool:
        while True:
            # Half regular, half exponential gaps: steady over seconds, jittered between requests.
            due += (0.5 + 0.5 * rng.expovariate(1.0)) / options.rate
            now = time.monotonic()
            if due > now:
                time.sleep(due - now)
            elif now - due > 1.0:
                due = now  # this machine stalled; missed requests are not made up for
            buy = rng.random() < BUY_SHARE
            customers.start(pool, "POST" if buy else "GET", "/buy" if buy else "/browse")
            if now - reported >= 1.0:
                reported = now
                sys.stdout.write(json.dumps(customers.figures()) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
