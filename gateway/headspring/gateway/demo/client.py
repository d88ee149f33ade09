"""What the demo asks of a platform and of the shop's supervisor, over HTTP only."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from headspring.proto.errors import Rejected, Unavailable


class Client:
    """JSON over HTTP with a key.

    Raises (every call): Unavailable when nothing answers or the answer is 5xx; Rejected for 4xx, with its text.
    """

    def __init__(self, url: str, api_key: str = "") -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=15.0, trust_env=False)

    def get(self, path: str, **parameters: str) -> Any:
        return self._call("GET", path, params=parameters)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._call("POST", path, json=body or {}, headers={"idempotency-key": secrets.token_hex(16)})

    def close(self) -> None:
        self._http.close()

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._http.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise Unavailable(f"{method} {self.url}{path}: {str(error) or type(error).__name__}") from error
        if answer.status_code >= 400:
            kind = Unavailable if answer.status_code >= 500 else Rejected
            raise kind(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
        return answer.json() if answer.content else {}


class Platform(Client):
    """The calls of the REST API that the demo makes."""

    def ready(self) -> bool:
        try:
            self.get("/api/v1/ready")
        except (Unavailable, Rejected):
            return False
        return True

    def incidents(self) -> Sequence[Mapping[str, Any]]:
        return _items(self.get("/api/v1/incidents", limit="100"), "incidents")

    def details(self, *, without: frozenset[str] = frozenset()) -> list[Mapping[str, Any]]:
        """Every incident with its diagnosis and runs, those in `without` left out."""
        ids = [incident["incident_id"] for incident in self.incidents()]
        return [self.get(f"/api/v1/incidents/{incident_id}") for incident_id in ids if incident_id not in without]

    def alerts(self) -> Sequence[Mapping[str, Any]]:
        return _items(self.get("/api/v1/alerts", limit="100"), "alerts")

    def services_seen(self) -> set[str]:
        """Services from which request rates have arrived."""
        return {series["labels"].get("service", "") for series in self.query("service_request_rate")}

    def query(self, text: str) -> list[dict[str, Any]]:
        """Series of an instant query, each with `labels`."""
        answer = self.get("/api/v1/metrics/query", query=text)
        data: Any = answer.get("data", answer)
        found: list[dict[str, Any]] = data.get("result") or data.get("series") or []
        return [{"labels": item.get("labels") or item.get("metric") or {}, **item} for item in found]

    def approve(self, run_id: str, digest: str) -> None:
        self.post(f"/api/v1/runs/{run_id}/approve", {"digest": digest})

    def new_key(self, name: str, role: str) -> str:
        return str(self.post("/api/v1/keys", {"name": name, "role": role})["key"])


def _items(answer: Any, name: str) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = (
        answer if isinstance(answer, list) else answer.get("items", answer.get(name, []))
    )
    return found
