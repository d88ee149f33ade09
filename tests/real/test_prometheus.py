"""A real Prometheus writes to a real Headspring: what it scraped is what a query returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tests.servers.headspring import Headspring, eventually
from tests.servers.prometheus import prometheus

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def source(platform: Headspring, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    with prometheus(folder, remote_write=f"{platform.otlp_url}/api/v1/write", api_key=platform.api_key) as url:
        yield url


def _at_source(url: str, path: str, **parameters: str) -> Any:
    return (
        httpx2.get(f"{url}{path}", params=parameters, timeout=10.0, trust_env=False).raise_for_status().json()["data"]
    )


def _has_numbers(url: str, name: str) -> bool:
    """False for quantiles of a summary that nothing was observed in: NaN is no sample to us."""
    return any(item["value"][1] != "NaN" for item in _at_source(url, "/api/v1/query", query=name)["result"])


def test_a_scraped_gauge_arrives_with_its_labels_and_value(platform: Headspring, source: str) -> None:
    found = eventually(lambda: platform.series("up"), bool)
    assert len(found) == 1
    labels = found[0]["labels"]
    assert (labels["job"], labels["cluster"]) == ("prometheus", "test")
    assert labels["instance"] == source.removeprefix("http://")
    assert found[0]["value"] == 1.0


def test_every_series_that_prometheus_holds_is_known(platform: Headspring, source: str) -> None:
    eventually(lambda: platform.series("scrape_samples_scraped"), bool)
    names = [
        name
        for name in _at_source(source, "/api/v1/label/__name__/values")
        if name.startswith("prometheus_tsdb_") and _has_numbers(source, name)
    ]
    assert len(names) > 20
    missing = eventually(lambda: [name for name in names if not platform.series(name)], lambda left: not left)
    assert missing == []


def test_samples_are_those_that_prometheus_scraped(platform: Headspring, source: str) -> None:
    """Raw samples of a counter, timestamps and values, over its last seconds."""
    selector = 'prometheus_tsdb_head_samples_appended_total{type="float"}'
    eventually(lambda: platform.samples(selector, seconds=60), lambda found: len(found) >= 5)
    scraped = {
        round(float(time) * 1000): float(value)
        for time, value in _at_source(source, "/api/v1/query", query=f"{selector}[60s]")["result"][0]["values"]
    }
    newest_but_two = sorted(scraped)[:-2]  # the last ones may still be on their way
    received = platform.samples(selector, seconds=120)
    assert {time: received.get(time) for time in newest_but_two} == {time: scraped[time] for time in newest_but_two}


def test_a_wrong_key_is_refused(platform: Headspring) -> None:
    refused = httpx2.post(
        f"{platform.otlp_url}/api/v1/write", headers={"authorization": "Bearer nobody"}, timeout=10.0, trust_env=False
    )
    assert refused.status_code == 401
