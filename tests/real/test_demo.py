"""The whole way, as a user sees it: a fault in the demo shop is found, explained and mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from headspring.gateway.demo.command import main

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(480)]


def test_a_slow_payment_service_is_found_and_mended(tmp_path: Path) -> None:
    assert main("payment-delay", True, False, tmp_path, 240.0) == 0
