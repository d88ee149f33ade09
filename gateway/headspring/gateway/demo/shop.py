"""One service of the demo shop, as a process: Flask served by waitress, with no telemetry code in it.

Telemetry comes from outside: the supervisor starts this module under `opentelemetry-instrument`.
Usage: ``python -m headspring.gateway.demo.shop NAME --port N --ready-fd N --life-fd N --data DIR``, with the
addresses of the other services in ``SHOP_ADDRESSES`` (JSON, name → port) and the version in ``VERSION``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

import flask
import requests
import waitress
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from headspring.gateway.demo import estate
from headspring.gateway.demo.shop_life import exit_with, shared_socket

THREADS = 24
"""Requests a process serves at once: enough for 7 calls/s that take 3 s each."""
CALL_TIMEOUT_S = 8.0
_WORK_SIGMA = 0.25
"""Spread of the log-normal working time: about ±25 % around its median."""
_KEPT_CHARGES = 5_000
_LOG = logging.getLogger("shop")


class SimulatedFailure(RuntimeError):
    """Raised inside a request while the `error` fault is on."""


@dataclass(slots=True, kw_only=True)
class Faults:
    """What is wrong with this process right now; it forgets when it restarts."""

    delay_s: float = 0.0
    error_ratio: float = 0.0


class ByName(HTTPAdapter):
    """Looks service names up in a table, as a cluster's DNS would, so that URLs can say `http://payment/…`."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._ports = dict(ports)
        # A kept-alive connection may be closed by a server that restarts just as it is used: that is read again
        # on a new one. A refused connection is not retried.
        retry = Retry(total=2, connect=0, read=2, status=0, other=0, allowed_methods=None)
        super().__init__(pool_connections=8, pool_maxsize=THREADS, max_retries=retry)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        parts = urlsplit(str(request.url))
        port = self._ports.get(parts.hostname or "")
        if port is None:
            raise requests.exceptions.InvalidURL(f"no service named {parts.hostname!r} in the shop")
        resolved = request.copy()
        resolved.url = urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
        resolved.headers["Host"] = parts.netloc
        return super().send(resolved, *args, **kwargs)


def make_app(
    service: estate.ShopService, ports: Mapping[str, int], faults: Faults, *, version: str, database: Path
) -> flask.Flask:
    """The service as a WSGI application."""
    app = flask.Flask(service.name)
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", ByName(ports))
    store = _Database(database) if service.name == estate.DATABASE else None
    rng = random.Random()  # noqa: S311 - jitter, not a secret
    for route in service.routes:
        view = _view(service.name, route, session, store, faults, version, rng)
        app.add_url_rule(route.path, endpoint=route.path.strip("/"), view_func=view, methods=[route.method])
    return app


def _view(
    name: str,
    route: estate.Route,
    session: requests.Session,
    store: _Database | None,
    faults: Faults,
    version: str,
    rng: random.Random,
) -> Callable[[], tuple[flask.Response, int]]:
    bad = version == estate.BAD_VERSION

    def view() -> tuple[flask.Response, int]:
        delay_s = faults.delay_s + (estate.BAD_VERSION_DELAY_S if bad else 0.0)
        time.sleep(rng.lognormvariate(0.0, _WORK_SIGMA) * route.work_s + delay_s * rng.uniform(0.8, 1.2))
        if rng.random() < max(faults.error_ratio, estate.BAD_VERSION_ERROR_RATIO if bad else 0.0):
            raise SimulatedFailure(f"{name} could not do {route.method} {route.path}")
        rows: Any = store.run(route.statement) if store and route.statement else None
        for callee, method, path in route.calls:
            try:
                answer = session.request(method, f"http://{callee}{path}", timeout=CALL_TIMEOUT_S)
            except requests.RequestException as error:
                _LOG.error("%s cannot be reached: %s", callee, type(error).__name__)
                return flask.jsonify(error=f"{callee} cannot be reached"), 502
            if answer.status_code >= 500:
                _LOG.error("%s answered %d to %s %s", callee, answer.status_code, method, path)
                return flask.jsonify(error=f"{callee} failed"), 502
            rows = answer.json().get("rows", rows)
        _LOG.info("served %s %s", route.method, route.path)
        return flask.jsonify(service=name, version=version, rows=rows), 200

    return view


class _Database:
    """The rows of the shop, in one SQLite file; a connection for each serving thread."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._local = threading.local()
        with self._connection() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, name TEXT, price REAL, reserved INTEGER)"
            )
            connection.execute("CREATE TABLE IF NOT EXISTS charges (id INTEGER PRIMARY KEY, amount REAL)")
            connection.executemany(
                "INSERT OR IGNORE INTO items VALUES (?, ?, ?, 0)",
                [(number, f"item {number}", 5.0 + number) for number in range(1, 51)],
            )
            connection.execute("DELETE FROM charges WHERE id <= (SELECT max(id) FROM charges) - ?", (_KEPT_CHARGES,))

    def run(self, statement: str) -> list[list[Any]]:
        """Rows of one of the statements that `estate` lists, committed."""
        with self._connection() as connection:
            return [list(row) for row in connection.execute(statement).fetchall()]

    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            self._local.connection = sqlite3.connect(self._file, timeout=5.0)
            # Demo rows need not survive a power cut; an fsync for each would be the shop's largest cost.
            self._local.connection.execute("PRAGMA synchronous=OFF")
        connection: sqlite3.Connection = self._local.connection
        return connection


def serve_control(faults: Faults) -> int:
    """Serves the private endpoint that sets faults (`PUT /faults` with both fields); its port on loopback."""

    class Control(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = json.loads(self.rfile.read(min(int(self.headers.get("content-length", 0)), 4096)))
            faults.delay_s = float(body["delay_s"])
            faults.error_ratio = float(body["error_ratio"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing: the supervisor logs what it asks for."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Control)
    threading.Thread(target=server.serve_forever, name="control", daemon=True).start()
    return int(server.server_address[1])


def _stop(*_: object) -> NoReturn:
    sys.exit(0)


def main() -> None:
    """Serves one service until SIGTERM or until the supervisor is gone."""
    parser = argparse.ArgumentParser(prog="headspring.gateway.demo.shop", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=estate.NAMES)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ready-fd", type=int, required=True)
    parser.add_argument("--life-fd", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    logging.getLogger().setLevel(logging.INFO)
    for chatty in ("waitress", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    exit_with(options.life_fd)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the supervisor's to handle
    faults = Faults()
    app = make_app(
        estate.BY_NAME[options.name], json.loads(os.environ["SHOP_ADDRESSES"]), faults,
        version=os.environ.get("VERSION", estate.GOOD_VERSION), database=options.data / "orders.db",
    )  # fmt: skip
    server = waitress.create_server(
        app, sockets=[shared_socket(options.port)], threads=THREADS, clear_untrusted_proxy_headers=True
    )
    os.write(options.ready_fd, json.dumps({"control_port": serve_control(faults)}).encode() + b"\n")
    os.close(options.ready_fd)
    server.run()


if __name__ == "__main__":
    main()
