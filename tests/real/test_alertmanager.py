"""A real Alertmanager delivers its webhook: the alert is listed, once, and ends when it ends there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from tests.servers.alertmanager import alertmanager
from tests.servers.headspring import Headspring, eventually

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def source(platform: Headspring, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("alertmanager")
    webhook = f"{platform.otlp_url}/api/v1/alerts/ingest"
    with alertmanager(folder, webhook=webhook, api_key=platform.api_key) as url:
        yield url


def _post(source: str, name: str, service: str, *, starts: datetime, ends: datetime) -> None:
    alert = {
        "labels": {"alertname": name, "service": service, "severity": "critical"},
        "annotations": {"summary": f"{service} answers late"},
        "startsAt": starts.isoformat(), "endsAt": ends.isoformat(),
    }  # fmt: skip
    httpx2.post(f"{source}/api/v2/alerts", json=[alert], timeout=10.0, trust_env=False).raise_for_status()


def _listed(platform: Headspring) -> list[dict[str, Any]]:
    return [alert for alert in platform.alerts() if alert["name"] == "CheckoutSlow"]


def test_an_alert_arrives_once_and_its_end_too(platform: Headspring, source: str) -> None:
    starts = datetime.now(UTC)
    _post(source, "CheckoutSlow", "checkout", starts=starts, ends=starts + timedelta(minutes=10))
    firing = eventually(lambda: _listed(platform), bool)
    assert len(firing) == 1
    assert firing[0]["status"] == "firing"
    assert firing[0]["entity"] == "service:default/checkout"
    assert firing[0]["severity"] == "critical"
    assert firing[0]["summary"] == "checkout answers late"

    _post(source, "CheckoutSlow", "checkout", starts=starts, ends=datetime.now(UTC))
    ended = eventually(lambda: _listed(platform), lambda found: [alert["status"] for alert in found] == ["resolved"])
    assert ended[0]["alert_id"] == firing[0]["alert_id"]


def test_two_alerts_of_a_service_form_one_incident(platform: Headspring, source: str) -> None:
    starts = datetime.now(UTC)
    for name in ("PaymentSlow", "PaymentErrors"):
        _post(source, name, "payment", starts=starts, ends=starts + timedelta(minutes=10))

    def members() -> list[set[str]]:
        found = [platform.get(f"/api/v1/incidents/{item['incident_id']}")["incident"] for item in platform.incidents()]
        names = [{member["alert"]["name"] for member in incident["members"]} for incident in found]
        return [one for one in names if one & {"PaymentSlow", "PaymentErrors"}]

    together = eventually(members, lambda found: found == [{"PaymentSlow", "PaymentErrors"}], seconds=30)
    assert len(together) == 1
