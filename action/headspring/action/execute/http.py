"""Steps as HTTP requests, to allowed places only.

A place is scheme, host and port, and it is compared with every request as it is sent: no redirects, no
proxies from the environment, no addresses in disguise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx2

from headspring.proto.action import PlannedStep
from headspring.proto.errors import ConfigError, ExecutionFailed, Rejected, Unavailable

_MAX_RESPONSE_BYTES = 256 * 1024
_SHOWN_CHARS = 2000
_TIMEOUT_S = 30.0
_MAX_TIMEOUT_S = 300.0
_PREVIEW_TIMEOUT_S = 5.0
_PORTS = {"http": 80, "https": 443}

Place = tuple[str, str, int]
"""Scheme, host in lower case, port."""


class HttpExecutor:
    name = "http"

    def __init__(self, *, ops_url: str = "", allow: Sequence[str] = ()) -> None:
        """
        Args:
            ops_url: Base address of the operations API; its place is allowed.
            allow: More places, as `http(s)://host[:port]`.

        Raises:
            ConfigError: one of them is no such address.
        """
        self._allowed = frozenset(_configured(text) for text in (ops_url, *allow) if text)
        self._client = httpx2.Client(follow_redirects=False, trust_env=False)

    def preview(self, step: PlannedStep) -> str:
        method, url = step.arguments.get("method", "POST"), step.arguments["url"]
        body = step.arguments.get("body", "")
        text = f"{method} {url}" + (f" {body}" if body else "")
        where = step.arguments.get("preview_url", "")
        if not where:
            return text
        answer = self._send("GET", where, "", _PREVIEW_TIMEOUT_S, {})
        return f"{text} (now: {answer[:500]})"

    def run(self, step: PlannedStep, *, idempotency_key: str) -> str:
        return self._send(
            step.arguments.get("method", "POST"), step.arguments["url"], step.arguments.get("body", ""),
            _seconds(step.arguments.get("timeout_s", "")), {"Idempotency-Key": idempotency_key},
        )  # fmt: skip

    def _send(self, method: str, url: str, body: str, timeout_s: float, headers: dict[str, str]) -> str:
        self._check(url)
        if body:
            try:
                json.loads(body)
            except ValueError as error:
                raise Rejected(f"the body of {method} {url} is not JSON: {error}") from error
            headers = {**headers, "Content-Type": "application/json"}
        try:
            with self._client.stream(
                method, url, content=body.encode() if body else None, headers=headers, timeout=timeout_s
            ) as answer:
                text = _text(answer)
        except httpx2.ConnectError as error:
            raise ExecutionFailed(f"{method} {url}: cannot connect: {error}") from error
        except httpx2.HTTPError as error:
            raise Unavailable(f"{method} {url}: {str(error) or type(error).__name__}") from error
        if not answer.is_success:
            raise ExecutionFailed(f"{method} {url} answered {answer.status_code}: {text[:300]}")
        return text[:_SHOWN_CHARS]

    def _check(self, url: str) -> None:
        place = _place(url)
        if place not in self._allowed:
            shown = ", ".join(f"{scheme}://{host}:{port}" for scheme, host, port in sorted(self._allowed)) or "none"
            raise Rejected(f"{url} is not an allowed place; allowed: {shown}")


def _text(answer: httpx2.Response) -> str:
    data = b""
    for piece in answer.iter_bytes():
        data += piece
        if len(data) > _MAX_RESPONSE_BYTES:
            break
    return data[:_MAX_RESPONSE_BYTES].decode("utf-8", "replace")


def _seconds(text: str) -> float:
    try:
        value = float(text) if text else _TIMEOUT_S
    except ValueError as error:
        raise Rejected(f"timeout_s is {text!r}; wanted seconds") from error
    if not 0 < value <= _MAX_TIMEOUT_S:
        raise Rejected(f"timeout_s is {value:g}; wanted more than 0 and at most {_MAX_TIMEOUT_S:g}")
    return value


def _place(url: str) -> Place | None:
    """None for what is no plain http(s) address."""
    if any(char.isspace() or ord(char) < 0x21 for char in url) or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or port is None or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname.lower(), port


def _configured(text: str) -> Place:
    place = _place(text)
    if place is None:
        raise ConfigError(f"{text!r} is no address that runbooks may call; wanted http(s)://host[:port][/path]")
    return place
