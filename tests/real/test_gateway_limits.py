"""Two gateways over one Redis count a caller's changes together, and each alone while Redis is away."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from tests.servers.pages import RUN, site
from tests.servers.redis import redis

from headspring.gateway.api.app import api_app
from headspring.gateway.api.limits import ApiLimits
from headspring.knowledge.coordination.redis import RedisRateLimiter

pytestmark = pytest.mark.real


async def changes_until_refused(one: httpx2.AsyncClient, *, at_most: int = 50) -> int:
    for made in range(at_most):
        if (await one.post(f"/api/v1/runs/{RUN}/reject", json={"digest": "0" * 64})).status_code == 429:
            return made
    return at_most


async def test_gateways_share_limits_and_go_on_without_redis(tmp_path: Path) -> None:
    installation = site(tmp_path)
    headers = {"authorization": f"Bearer {installation.keys['admin']}"}
    with redis(tmp_path) as server:
        limiters = [RedisRateLimiter(server.url, password=server.password) for _ in range(2)]
        clients = [
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(
                    app=api_app(installation.services, limits=ApiLimits(limiter=limiter, writes_per_minute=20))
                ),
                base_url="http://api.example", headers=headers,
            )
            for limiter in limiters
        ]  # fmt: skip
        assert await changes_until_refused(clients[0], at_most=15) == 15
        assert await changes_until_refused(clients[1]) == 5
        assert await changes_until_refused(clients[0]) == 0
        server.stop()
        for one, limiter in zip(clients, limiters, strict=True):
            assert await changes_until_refused(one) == 20
            assert limiter.degraded
        for one, limiter in zip(clients, limiters, strict=True):
            await one.aclose()
            limiter.close()
    installation.close()
