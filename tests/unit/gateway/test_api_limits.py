"""How often: changes by key, failed sign-ins by address; over the real API, pages and keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx2
import pytest
from tests.servers.pages import RUN, Site, site

from headspring.gateway.api.app import api_app
from headspring.gateway.api.limits import ApiLimits
from headspring.ingestion.pipeline import Intake
from headspring.knowledge.coordination.memory import MemoryRateLimiter
from headspring.proto.clock import ManualClock

Client = Callable[..., httpx2.AsyncClient]
PAGE = {"accept": "text/html", "origin": "http://api.example"}


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Site]:
    made = site(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def client(installation: Site) -> AsyncIterator[Client]:
    """Clients of one gateway that allows three changes and four failed sign-ins a minute."""
    limits = ApiLimits(
        limiter=MemoryRateLimiter(installation.services.clock), writes_per_minute=3, failed_sign_ins_per_minute=4
    )
    services = replace(installation.services, intake=cast(Intake, SimpleNamespace(counters={})))
    app, opened = api_app(services, limits=limits), []

    def make(key: str = "", address: str = "10.0.0.1") -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False, client=(address, 1))
        headers = {"authorization": f"Bearer {key}"} if key else {}
        opened.append(httpx2.AsyncClient(transport=transport, base_url="http://api.example", headers=headers))
        return opened[-1]

    yield make
    for one in opened:
        await one.aclose()


def later(installation: Site, seconds: float) -> None:
    assert isinstance(installation.services.clock, ManualClock)
    installation.services.clock.advance(seconds)


async def change(one: httpx2.AsyncClient) -> httpx2.Response:
    return await one.post(f"/api/v1/runs/{RUN}/reject", json={"digest": "0" * 64})


async def test_changes_above_the_limit_are_told_when_to_come_again(installation: Site, client: Client) -> None:
    admin, other = client(installation.keys["admin"]), client(installation.keys["operator"])
    for _ in range(3):
        assert (await change(admin)).status_code != 429
    refused = await change(admin)
    assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
    wait_s = int(refused.headers["retry-after"])
    assert 50 <= wait_s <= 66
    assert f"try again in {wait_s} s" in refused.json()["detail"]
    assert (await admin.get("/api/v1/incidents")).status_code == 200  # reading goes on
    assert (await change(other)).status_code != 429  # and so do others
    later(installation, wait_s)
    assert (await change(admin)).status_code != 429
    metrics = (await admin.get("/metrics")).text
    assert "headspring_gateway_writes_refused_total 1\n" in metrics


async def test_an_address_that_fails_to_sign_in_waits(installation: Site, client: Client) -> None:
    known = client(installation.keys["viewer"])
    assert (await known.get("/api/v1/incidents")).status_code == 200
    for number in range(4):
        assert (await client(f"guess-{number}").get("/api/v1/incidents")).status_code == 401
    refused = await client("guess-5").get("/api/v1/incidents")
    assert refused.status_code == 429
    # A key that nobody has seen yet is not tried, be it good or not; one that was good a moment ago goes on.
    assert (await client(installation.keys["admin"]).get("/api/v1/incidents")).status_code == 429
    assert (await known.get("/api/v1/incidents")).status_code == 200
    assert (await client(installation.keys["admin"], "10.0.0.2").get("/api/v1/incidents")).status_code == 200
    later(installation, int(refused.headers["retry-after"]))
    assert (await client("guess-6").get("/api/v1/incidents")).status_code == 401


async def test_the_form_of_the_pages_counts_with_the_api(installation: Site, client: Client) -> None:
    browser = client()
    for number in range(4):
        answer = await browser.post("/login", data={"key": f"guess-{number}"}, headers=PAGE)
        assert answer.status_code == 401
    refused = await browser.post("/login", data={"key": installation.keys["viewer"]}, headers=PAGE)
    assert (refused.status_code, refused.headers["content-type"]) == (429, "text/html; charset=utf-8")
    assert int(refused.headers["retry-after"]) > 0
    assert "Too often" in refused.text
    assert (await browser.get("/login", headers=PAGE)).status_code == 200


async def test_signing_in_rightly_costs_nothing(installation: Site, client: Client) -> None:
    for _ in range(10):
        answer = await client().post("/login", data={"key": installation.keys["viewer"]}, headers=PAGE)
        assert answer.status_code == 303
        assert (await client(installation.keys["viewer"]).get("/api/v1/incidents")).status_code == 200


async def test_a_page_that_needs_no_key_makes_no_key_good(client: Client) -> None:
    """Else a guess could be announced there and then be tried for nothing."""
    for number in range(4):
        assert (await client(f"guess-{number}").get("/api/v1/openapi.json")).status_code == 200
    assert (await client("guess-1").get("/api/v1/incidents")).status_code == 429


async def test_no_limit_is_no_limit(installation: Site) -> None:
    limits = ApiLimits(
        limiter=MemoryRateLimiter(installation.services.clock), writes_per_minute=0, failed_sign_ins_per_minute=0
    )
    transport = httpx2.ASGITransport(app=api_app(installation.services, limits=limits), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api.example") as one:
        for _ in range(20):
            assert (await change(one)).status_code == 401
