"""How commands talk to a running platform: address and key from flags or environment, errors in words."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2

from headspring.proto.errors import ConfigError, Conflict, Forbidden, NotFound, Rejected, Unauthenticated, Unavailable

DEFAULT_URL = "http://127.0.0.1:8420"
_TIMEOUT_S = 30.0
_ERRORS: Mapping[int, type[Exception]] = {
    401: Unauthenticated, 403: Forbidden, 404: NotFound, 409: Conflict, 412: Conflict, 503: Unavailable,
}  # fmt: skip


class Remote:
    """The API of one platform."""

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        """
        Raises:
            ConfigError: there is no key to use.
        """
        self.url = (url or os.environ.get("HEADSPRING_URL") or DEFAULT_URL).rstrip("/")
        key = key or os.environ.get("HEADSPRING_API_KEY") or ""
        if not key:
            raise ConfigError(
                "no API key; set HEADSPRING_API_KEY, or pass --key (`headspring up` shows one at first start)"
            )
        self._client = httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT_S, trust_env=False
        )

    def get(self, path: str, **parameters: Any) -> Any:
        return self._call("GET", path, params={key: value for key, value in parameters.items() if value})

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._call("POST", path, json=dict(body), headers={"Idempotency-Key": secrets.token_hex(16)})

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._call("PUT", path, json=dict(body))

    def pages(self, path: str, *, limit: int, **parameters: Any) -> Iterator[Any]:
        """Items of a paged list, at most `limit`."""
        cursor = ""
        while limit > 0:
            page = self.get(path, limit=min(limit, 200), cursor=cursor, **parameters)
            yield from page["items"][:limit]
            limit -= len(page["items"])
            cursor = page["next_cursor"]
            if not cursor:
                return

    def _call(self, method: str, path: str, **options: Any) -> Any:
        """
        Raises:
            PlatformError: the subclass that the answer's status stands for, with the answer's own words.
        """
        try:
            answer = self._client.request(method, f"/api/v1{path}", **options)
        except httpx2.TransportError as error:
            raise Unavailable(f"no answer from {self.url}: {error}; is `headspring up` running there?") from error
        if answer.is_success:
            return answer.json()
        try:
            detail = answer.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = answer.text[:300]
        raise _ERRORS.get(answer.status_code, Rejected)(f"{detail} (HTTP {answer.status_code})")
