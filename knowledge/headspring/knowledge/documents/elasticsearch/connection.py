"""The client: one pool of connections, bounded waits, and every error of the client as one of ours."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from elastic_transport import ConnectionError as NoConnection
from elastic_transport import ConnectionTimeout, TlsError, TransportError
from elasticsearch import ApiError, Elasticsearch, UnsupportedProductError

from headspring.knowledge.documents.elasticsearch.settings import ElasticsearchSettings
from headspring.proto.errors import BackendError, ConfigError, Conflict, NotFound, Rejected, Unavailable

_PAUSE_S = 2.0
"""After a request ran out of time, others fail at once for so long: or every caller would wait its own time out."""
_BULK_BYTES = 8 * 1024 * 1024
"""A server takes 100 MB in one request unless told otherwise; above a few it is not faster."""
_MAX_REASON_CHARS = 250
_REFUSED = re.compile(r"\[Errno -?\d+\] ([^)'\"]+)")

# The client tells of every failed attempt with a stack; what it raises reaches the operator as one line of ours.
logging.getLogger("elastic_transport").setLevel(logging.ERROR)


class NoIndex(NotFound):
    """An index or alias is missing."""


class Connection:
    """Calls of the client go through `reading` and `writing`, which translate what they raise."""

    def __init__(self, settings: ElasticsearchSettings) -> None:
        self.settings = settings
        options: dict[str, Any] = {}  # the client tells "not given" from None
        if settings.api_key:
            options["api_key"] = settings.api_key
        elif settings.user:
            options["basic_auth"] = (settings.user, settings.password)
        if settings.ca_file is not None:
            options["ca_certs"] = str(settings.ca_file)
        try:
            self._client = Elasticsearch(
                [_with_port(url) for url in settings.urls],
                request_timeout=settings.read_timeout_s,
                connections_per_node=settings.connections,
                # A kept-alive connection that the server closed, or another node; all we send may be sent twice.
                max_retries=max(1, len(settings.urls) - 1),
                retry_on_timeout=len(settings.urls) > 1,
                retry_on_status=(),
                dead_node_backoff_factor=5.0,  # seconds, doubling: each look at a silent node costs a whole wait
                max_dead_node_backoff=60.0,
                **options,
            )
        except (ValueError, OSError) as error:
            raise ConfigError(
                f"elasticsearch_url {settings.where} or elasticsearch_ca cannot be used: {error}"
            ) from error
        self._writer = self._client.options(request_timeout=settings.write_timeout_s)
        self._lock = threading.Lock()
        self._paused_until_s = 0.0
        self.bulk_bytes = _BULK_BYTES
        """Of one bulk request, unless one document is larger; falls when the server says that it was too much."""

    @contextmanager
    def reading(self) -> Iterator[Elasticsearch]:
        """The client, for what a person waits for.

        Raises:
            Unavailable, NotFound, Conflict, Rejected: what the client raises inside, translated.
        """
        with self._translating(self.settings.read_timeout_s):
            yield self._client

    @contextmanager
    def writing(self) -> Iterator[Elasticsearch]:
        """The client, for bulks and for work on indices; errors as in `reading`."""
        with self._translating(self.settings.write_timeout_s):
            yield self._writer

    @contextmanager
    def _translating(self, timeout_s: float) -> Iterator[None]:
        with self._lock:
            left_s = self._paused_until_s - time.monotonic()
        if left_s > 0:
            raise Unavailable(
                f"Elasticsearch at {self.settings.where} did not answer in time a moment ago", retry_after_s=left_s
            )
        try:
            yield
        except ConnectionTimeout as error:
            with self._lock:
                self._paused_until_s = time.monotonic() + _PAUSE_S
            raise Unavailable(
                f"Elasticsearch at {self.settings.where} did not answer within {timeout_s:g} s", retry_after_s=_PAUSE_S
            ) from error
        except (ApiError, TransportError) as error:
            raise translated(error, self.settings.where) from error

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()


def translated(error: ApiError | TransportError, where: str) -> BackendError:
    """What the client raised, as one line of ours.

    A refused sign-in or permission is `Unavailable`, not `Rejected`: it says nothing about the document, and documents
    must wait for the operator rather than be set aside.
    """
    if isinstance(error, TlsError):
        return Unavailable(f"Elasticsearch at {where}: TLS failed: {plain(error)}")
    if isinstance(error, NoConnection):
        return Unavailable(f"Elasticsearch at {where} is away: {plain(error)}")
    if isinstance(error, UnsupportedProductError):
        return Unavailable(f"what answers at {where} is not Elasticsearch")
    if isinstance(error, TransportError):
        return Unavailable(f"the answer of Elasticsearch at {where} cannot be read: {_short(error.message)}")
    status, why = error.meta.status, reason_of(error.body) or error.message
    if status in (401, 403):
        return Unavailable(f"Elasticsearch at {where} does not allow this: {why}", retry_after_s=5.0)
    if status == 404:
        return (NoIndex if error.error == "index_not_found_exception" else NotFound)(f"Elasticsearch: {why}")
    if status == 409:
        return Conflict(f"Elasticsearch: {why}")
    if status in (408, 429) or status >= 500:
        return Unavailable(f"Elasticsearch at {where} cannot do this now ({status}): {why}")
    return Rejected(f"Elasticsearch at {where} will not take this ({status}): {why}")


def plain(error: TransportError) -> str:
    """What a person needs of a failed connection: `Connection refused`, `certificate verify failed`."""
    text = str(error.message)
    found = _REFUSED.search(text)
    return found.group(1).strip() if found else _short(text)


def reason_of(body: object) -> str:
    """The reason in an error's body, or in an item's `error`; "" where there is none."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return _short(str(error)) if error else ""
    causes = error.get("root_cause")
    first = causes[0] if isinstance(causes, list) and causes and isinstance(causes[0], dict) else error
    deepest = error
    while isinstance(deepest.get("caused_by"), dict):
        deepest = deepest["caused_by"]
    parts = [_short(one.get("reason") or one.get("type") or "") for one in (first, deepest)]
    return "; ".join(dict.fromkeys(part for part in parts if part))


def _short(text: object) -> str:
    """One line; a server's reason may repeat a whole document."""
    line = " ".join(str(text).split())
    return line if len(line) <= _MAX_REASON_CHARS else f"{line[:_MAX_REASON_CHARS]}…"


def _with_port(url: str) -> str:
    """The client wants a port always."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if re.search(r":\d+$", host) is None:
        host += ":443" if scheme == "https" else ":80"
    return f"{scheme}://{host}{slash}{path}"
