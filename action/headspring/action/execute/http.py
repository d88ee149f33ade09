"""Steps as HTTP requests to operations endpoints that the owner of the estate named.

Only the hosts and ports of `ops_url` and `allow_hosts` are ever dialled; the check is made on the parsed address
and again where the socket is opened, so no parser, redirect or name service can lead elsewhere.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import httpcore2  # what httpx2 stands on; its network backend is where a socket is opened

from headspring.action.execute.port import printable
from headspring.proto import tracing
from headspring.proto.action import PlannedStep
from headspring.proto.errors import ConfigError, ExecutionFailed, Rejected

MAX_RESPONSE_BYTES = 256 * 1024
MAX_TIMEOUT_S = 300.0
"""Longest time of one request; a step that takes longer should answer 202 and be watched by validation."""
_TIMEOUT_S = 30.0
_CONNECT_TIMEOUT_S = 5.0
_PREVIEW_TIMEOUT_S = 5.0

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"^[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*$")
_VISIBLE = re.compile(r"^[!-\[\]-~]+$")
"""Printable ASCII without the backslash, which some parsers read as a slash."""
_KEY = re.compile(r"^[!-~]{1,200}$")

HostPort = tuple[str, int]


class HttpExecutor:
    """`http` steps: `method`, `url`, `body` (JSON text), `timeout_s`; `preview_url` is read for the dry-run."""

    def __init__(self, *, ops_url: str = "", allow_hosts: Sequence[str] = ()) -> None:
        """
        Args:
            ops_url: Base address of the operations endpoint; "" allows none.
            allow_hosts: More `host:port` pairs.

        Raises:
            ConfigError: one of them is no address.
        """
        allowed: set[HostPort] = set()
        try:
            if ops_url:
                allowed.add(_address(ops_url)[1:3])
            for entry in allow_hosts:
                if not re.search(r":\d+$", entry):
                    raise ConfigError(f"allow_hosts takes host:port, got {entry!r}")
                allowed.add(_address(f"http://{entry}/")[1:3])
        except Rejected as error:
            raise ConfigError(f"not an operations address: {error}") from error
        self._allowed = frozenset(allowed)
        self._backend = _GuardedBackend(self._allowed)

    @property
    def name(self) -> str:
        return "http"

    def preview(self, step: PlannedStep) -> str:
        method, url = step.arguments.get("method", "POST"), step.arguments.get("url", "")
        self._check(url)
        words = f"{method} {url}" + (f" {step.arguments['body']}" if "body" in step.arguments else "")
        read = step.arguments.get("preview_url") or (url if method == "GET" else "")
        if not read:
            return f"would send {words}"
        state = self._send("GET", read, body="", key="", timeout_s=_PREVIEW_TIMEOUT_S)
        return f"would send {words}; now: {state}"

    def run(self, step: PlannedStep, *, idempotency_key: str) -> str:
        if not _KEY.match(idempotency_key):
            raise Rejected(f"{idempotency_key!r} cannot be an Idempotency-Key")
        try:
            timeout_s = float(step.arguments.get("timeout_s", _TIMEOUT_S))
        except ValueError as error:
            raise Rejected(f"timeout_s is a number of seconds, got {step.arguments['timeout_s']!r}") from error
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise Rejected(f"timeout_s is above 0 and at most {MAX_TIMEOUT_S:.0f}, got {timeout_s}")
        return self._send(
            step.arguments.get("method", "POST"), step.arguments.get("url", ""),
            body=step.arguments.get("body", ""), key=idempotency_key, timeout_s=timeout_s,
        )  # fmt: skip

    def _check(self, url: str) -> httpcore2.URL:
        scheme, host, port, target = _address(url)
        if (host, port) not in self._allowed:
            raise Rejected(f"{host}:{port} is not an operations endpoint; set ops_url or allow the host")
        return httpcore2.URL(scheme=scheme.encode(), host=host.encode(), port=port, target=target.encode())

    def _send(self, method: str, url: str, *, body: str, key: str, timeout_s: float) -> str:
        address = self._check(url)
        if method not in _METHODS:
            raise Rejected(f"method {method!r} is not one of {', '.join(sorted(_METHODS))}")
        bare = f"[{address.host.decode()}]" if b":" in address.host else address.host.decode()
        headers = [("Host", f"{bare}:{address.port}"), ("Accept", "application/json"), ("User-Agent", "headspring")]
        headers += tracing.carrier().items()
        if key:
            headers.append(("Idempotency-Key", key))
        content = body.encode()
        if content or method != "GET":
            headers += [("Content-Length", str(len(content))), ("Content-Type", "application/json")]
        deadline = time.monotonic() + timeout_s
        limits = {
            "connect": min(timeout_s, _CONNECT_TIMEOUT_S),
            "read": timeout_s,
            "write": timeout_s,
            "pool": timeout_s,
        }
        try:
            with (
                httpcore2.ConnectionPool(network_backend=self._backend) as pool,
                pool.stream(
                    method, address, headers=headers, content=content, extensions={"timeout": limits}
                ) as answer,
            ):
                data, cut = _read(answer.iter_stream(), deadline)
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
            raise ExecutionFailed(f"{method} {url}: {type(error).__name__}: {error}") from error
        text = printable(data, cut=cut)
        if not 200 <= answer.status < 300:
            hint = "; redirects are not followed" if 300 <= answer.status < 400 else ""
            raise ExecutionFailed(f"{method} {url} answered {answer.status}{hint}: {text[:500]}")
        return f"{answer.status} {text}".rstrip()


class _GuardedBackend(httpcore2.SyncBackend):
    """Opens sockets to allowed hosts only, and to the very address that was looked at."""

    def __init__(self, allowed: frozenset[HostPort]) -> None:
        super().__init__()
        self._allowed = allowed

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:  # fmt: skip
        if (host, port) not in self._allowed:
            raise Rejected(f"{host}:{port} is not an operations endpoint")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} cannot be resolved: {error}") from error
        problem: Exception = httpcore2.ConnectError(f"{host} has no address")
        for *_, where in found:
            address = ipaddress.ip_address(str(where[0]).partition("%")[0])
            mapped = getattr(address, "ipv4_mapped", None) or address
            # Cloud metadata lives on link-local addresses; no operations endpoint does.
            if mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified or mapped.is_reserved:
                raise Rejected(f"{host} resolves to {address}, which is no place for an operations endpoint")
            try:
                return super().connect_tcp(str(where[0]), port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                problem = error
        raise problem

    def connect_unix_socket(
        self, path: str, timeout: float | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:  # fmt: skip
        raise Rejected("local sockets are not operations endpoints")


def _address(url: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and target of an address that is plain in every respect.

    Raises:
        Rejected: another scheme, a user part, an unusual host, a fragment, or characters that parsers disagree on.
    """
    if len(url) > 4_096 or not _VISIBLE.match(url):
        raise Rejected(f"{url[:200]!r} is not a plain address")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise Rejected(f"{url!r} is not an address: {error}") from error
    if parts.scheme not in _PORTS:
        raise Rejected(f"{url!r}: only http and https are taken")
    if "@" in parts.netloc or "%" in parts.netloc:
        raise Rejected(f"{url!r}: no user part and no escapes in the host")
    if parts.fragment or any(one in (".", "..") for one in parts.path.split("/")):
        raise Rejected(f"{url!r}: no fragment and no '.' or '..' in the path")
    if port == 0 or not _plain_host(host):
        raise Rejected(f"{url!r}: {host!r} is not a plain host")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.scheme, host, port or _PORTS[parts.scheme], target


def _plain_host(host: str) -> bool:
    try:
        # The canonical spelling only: 127.1, 0x7f000001 and 2130706433 are ways around a list of names.
        return str(ipaddress.ip_address(host)) == host
    except ValueError:
        last = host.rpartition(".")[2]
        return bool(_NAME.match(host)) and len(host) <= 253 and not re.match(r"^(0x[0-9a-f]*|[0-9]+)$", last)


def _read(chunks: Iterable[bytes], deadline: float) -> tuple[bytes, bool]:
    data = bytearray()
    for chunk in chunks:
        data += chunk[: MAX_RESPONSE_BYTES - len(data)]
        if len(data) >= MAX_RESPONSE_BYTES:
            return bytes(data), True
        if time.monotonic() > deadline:
            raise ExecutionFailed("the answer took too long to arrive whole")
    return bytes(data), False
