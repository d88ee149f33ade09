"""Requests to VictoriaMetrics: every failure as one of our errors, in one line that never holds a password."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from headspring.knowledge.series.victoria.export import lines
from headspring.proto.errors import ConfigError, LimitExceeded, PlatformError, QueryError, Rejected, Unavailable

_REASON_CHARS = 300
_AWAY_S = 1.0
_ALWAYS_MS = 1_000
"""A start of 0 counts as "not given" in some requests."""
_NEVER_MS = 4_102_444_800_000
"""The year 2100."""
_TOO_MANY = re.compile(r"number of matching timeseries exceeds (\d+)")


class VictoriaClient:
    """One pool of connections. Thread-safe."""

    def __init__(
        self, url: str, *, user: str = "", password: str = "", headers: Mapping[str, str] | None = None,
        ca_file: Path | None = None, timeout_s: float = 30.0,
    ) -> None:  # fmt: skip
        """
        Args:
            headers: sent with every request, e.g. a bearer token for a proxy.
            ca_file: PEM file of the authority that signed the server's certificate; None: those the machine trusts.
            timeout_s: for an answer to begin, and between its parts.

        Raises:
            ConfigError: the address is none, or holds a password.
        """
        self.where = _address(url)
        if password and not user:
            raise ConfigError("victoria_password is set without victoria_user; set both or neither")
        self.timeout_s = timeout_s
        try:
            self._http = httpx2.Client(
                base_url=self.where,
                auth=(user, password) if user else None,
                # Answers are long numbers: packing them costs both sides more than a near network does.
                headers={"accept-encoding": "identity", **(headers or {})},
                timeout=httpx2.Timeout(timeout_s, connect=min(5.0, timeout_s)),
                verify=ssl.create_default_context(cafile=ca_file),
                trust_env=False,
            )
        except (ValueError, OSError) as error:
            raise ConfigError(f"victoria_url {self.where} or victoria_ca cannot be used: {error}") from error

    def write(self, body: bytes) -> None:
        """A remote-write request; taken when this returns.

        Raises:
            Unavailable, Rejected
        """
        headers = {"content-type": "application/x-protobuf", "content-encoding": "snappy"}
        with self._translating():
            self._check(self._http.post("/api/v1/write", content=body, headers=headers), writes=True)

    @contextmanager
    def export(self, selectors: Sequence[str], *, start_ms: int, end_ms: int) -> Iterator[Iterator[bytes]]:
        """Lines of series with samples from start_ms to end_ms, both included.

        Raises:
            Unavailable, QueryError, LimitExceeded
        """
        form = {"match[]": list(selectors), "start": _seconds(start_ms), "end": _seconds(end_ms)}
        with self._translating(), self._http.stream("POST", "/api/v1/export", data=form) as answer:
            if not answer.is_success:
                answer.read()
            self._check(answer)
            yield lines(answer.iter_raw(1 << 18))

    def series(self, selectors: Sequence[str]) -> Sequence[Mapping[str, str]]:
        """Labels of all series that match, in no order.

        Raises:
            Unavailable, QueryError
            LimitExceeded: more than the server lists.
        """
        form = {"match[]": list(selectors), "start": _seconds(_ALWAYS_MS), "end": _seconds(_NEVER_MS)}
        found: Sequence[Mapping[str, str]] = self._json("/api/v1/series", form)
        return found

    def last_times(self, selector: str, *, within_s: int) -> Sequence[tuple[Mapping[str, str], float]]:
        """Labels and time of the last sample, unix seconds, of each series that matches.

        Raises:
            Unavailable, QueryError, LimitExceeded
        """
        query = f"tlast_over_time({selector}[{within_s}s]) keep_metric_names"
        found = self._json("/api/v1/query", {"query": query})
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    def label_values(self, label: str) -> Sequence[str]:
        """Values of a label over all series, in no order."""
        form = {"start": _seconds(_ALWAYS_MS), "end": _seconds(_NEVER_MS)}
        found: Sequence[str] = self._json(f"/api/v1/label/{label}/values", form)
        return found

    def delete(self, selector: str) -> None:
        """Forgets all series that match and their samples."""
        with self._translating():
            self._check(self._http.post("/api/v1/admin/tsdb/delete_series", data={"match[]": selector}))

    def make_visible(self) -> bool:
        """Makes everything taken so far visible to queries; False where the server does not let us.

        Raises:
            Unavailable
        """
        with self._translating():
            answer = self._http.get("/internal/force_flush")
            if answer.status_code in (400, 401, 403, 404):
                return False
            self._check(answer)
        return True

    def metrics(self) -> str | None:
        """The server's own metrics; None where it does not show them.

        Raises:
            Unavailable
        """
        with self._translating():
            answer = self._http.get("/metrics")
            if answer.status_code in (400, 401, 403, 404):
                return None
            self._check(answer)
            return answer.text

    def probe(self) -> int:
        """The status of a request that every VictoriaMetrics answers and that asks for nothing.

        Raises:
            Unavailable
        """
        form = {"match[]": '{__tenant__="-"}', "start": "1", "end": "2"}
        with self._translating():
            return self._http.post("/api/v1/export", data=form).status_code

    def close(self) -> None:
        self._http.close()

    # -- inside

    def _json(self, path: str, form: Mapping[str, str | Sequence[str]]) -> Any:
        with self._translating():
            answer = self._http.post(path, data=form)
            self._check(answer)
            try:
                return answer.json()["data"]
            except (ValueError, KeyError, TypeError) as error:
                raise Unavailable(f"what answers at victoria_url {self.where} is not VictoriaMetrics") from error

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except httpx2.TimeoutException as error:
            raise Unavailable(
                f"VictoriaMetrics at {self.where} did not answer within {self.timeout_s:g} s", retry_after_s=_AWAY_S
            ) from error
        except httpx2.HTTPError as error:
            raise Unavailable(f"VictoriaMetrics at {self.where} is away: {_plain(error)}") from error

    def _check(self, answer: httpx2.Response, *, writes: bool = False) -> None:
        if answer.is_success:
            return
        raise _refused(
            answer.status_code, answer.text, answer.headers.get("retry-after", ""), self.where, writes=writes
        )


def _refused(status: int, text: str, retry_after: str, where: str, *, writes: bool) -> PlatformError:
    """An error status as one of ours.

    A refused sign-in is `Unavailable`: it says nothing about the samples, and these must wait for the operator.
    """
    why = _reason(text)
    too_many = _TOO_MANY.search(text)
    if too_many:
        return LimitExceeded(f"more than {too_many[1]} series match, which is as many as VictoriaMetrics gives")
    if status in (401, 403):
        return Unavailable(f"VictoriaMetrics at {where} refuses our user or password ({status})", retry_after_s=5.0)
    if status in (400, 422) and not writes:
        return QueryError(f"VictoriaMetrics cannot read this query: {why}")
    if status in (400, 413, 415, 422):
        return Rejected(f"VictoriaMetrics takes no such samples ({status}): {why}")
    wait_s = float(retry_after) if retry_after.isdigit() else _AWAY_S
    return Unavailable(f"VictoriaMetrics at {where} answers {status}: {why}", retry_after_s=wait_s)


def _reason(text: str) -> str:
    """What is wrong, without the request that VictoriaMetrics repeats before it."""
    found = re.search(r'"error":"((?:[^"\\]|\\.)*)"', text)
    plain = re.sub(r"^remoteAddr: .*?; requestURI: \S*; ", "", found[1] if found else text.strip())
    return " ".join(plain.split())[:_REASON_CHARS]


def _plain(error: httpx2.HTTPError) -> str:
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__


def _seconds(time_ms: int) -> str:
    # Half a millisecond more: the server multiplies by 1000 and cuts, and .580 may become 579.
    return f"{(min(max(time_ms, _ALWAYS_MS), _NEVER_MS) * 10 + 5) / 10_000:.4f}"


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ConfigError(f"victoria_url is {url!r}, which is no address; wanted http[s]://HOST:PORT") from None
    if parts.username or parts.password:
        # Not repeated here: it may hold a password.
        raise ConfigError("victoria_url holds a user or password; set victoria_user and victoria_password instead")
    if not ok or parts.query or parts.fragment:
        raise ConfigError(f"victoria_url is {url!r}; wanted http[s]://HOST:PORT")
    return url.rstrip("/")
