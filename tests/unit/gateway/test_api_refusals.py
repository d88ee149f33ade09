"""The API over real stores, asked badly: which status, which words, which form; and a disk that takes nothing."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy.exc
from tests.servers.pages import RUN, Site, site

from headspring.gateway.api.app import api_app
from headspring.gateway.api.problem import without_room

JSON = {"content-type": "application/json"}


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Site]:
    made = site(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def api(installation: Site) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=api_app(installation.services), raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {installation.keys['admin']}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://api.example", headers=headers) as client:
        yield client


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b'{"digest":', JSON, 400, "is not JSON"),
        (b'{"digest": NaN}', JSON, 400, "holds NaN"),
        (b'{"\\ud800": 1}', JSON, 400, "surrogate"),
        (b"[" * 100_000, JSON, 413, "nested deeper than 32"),
        (b'{"digest": 7}', JSON, 422, "found int 7"),
        (b"", JSON, 422, "found nothing"),
        (b"{}", {}, 415, "send application/json"),
        (b"{}", {**JSON, "content-encoding": "gzip"}, 415, "'gzip'"),
        (b"{", {**JSON, "authorization": "Bearer nobody"}, 401, "not known here"),
    ],
)
async def test_a_body_is_refused_with_what_was_found(
    api: httpx2.AsyncClient, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    answer = await api.post(f"/api/v1/runs/{RUN}/approve", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/v1/metrics/query?query=up&time=1e300", 400, "from 1970 to 2200"),
        ("/api/v1/metrics/query?query=up&time=0001-01-01", 400, "wanted"),
        ("/api/v1/metrics/query?query=up%20offset%209999y", 422, "at most 36500"),
        ("/api/v1/runs?cursor=" + "9" * 400, 400, "not a cursor"),
        ("/api/v1/runs?cursor=%C2%B2~x", 400, "not a cursor"),
        ("/api/v1/incidents?state=odd", 422, "'open'"),
        ("/api/v1/alerts?status=odd", 422, "'firing'"),
        ("/api/v1/nothing", 404, "/api/v1/nothing is not served here"),
    ],
)
async def test_a_question_is_refused_with_what_is_wanted(
    api: httpx2.AsyncClient, path: str, status: int, words: str
) -> None:
    answer = await api.get(path)
    assert answer.status_code == status
    assert words in answer.json()["detail"]


async def test_another_method_is_refused_with_those_that_are_allowed(api: httpx2.AsyncClient) -> None:
    answer = await api.put("/api/v1/incidents")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert "PUT is not allowed on /api/v1/incidents; allowed is GET" in answer.json()["detail"]


def _full() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EFBIG, "File too large"), _full(),
        sqlalchemy.exc.OperationalError("INSERT INTO api_keys VALUES (?)", ["a secret"], _full()),
    ],
    ids=["no space", "too large", "sqlite", "sqlalchemy"],
)  # fmt: skip
async def test_a_full_disk_is_503_and_shows_no_statement(
    installation: Site, api: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*given: Any) -> str:
        raise error

    monkeypatch.setattr(installation.services.keys, "create", refuse)
    answer = await api.post("/api/v1/keys", json={"name": "a", "role": "viewer"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "free disk space and repeat" in answer.json()["detail"]
    assert "secret" not in answer.text


def test_a_defect_is_not_taken_for_a_full_disk() -> None:
    missing = sqlite3.OperationalError("no such table: runs")
    missing.sqlite_errorcode = sqlite3.SQLITE_ERROR
    for error in (missing, FileNotFoundError(errno.ENOENT, "gone"), ConnectionResetError(), ValueError("x")):
        assert without_room(error) is None
