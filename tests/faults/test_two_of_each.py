"""Two processes of every role on the same servers: they share the work, and the way from fault to repair is one way."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.servers import stack
from tests.servers.headspring import Headspring, eventually
from tests.servers.process import free_port

from headspring.gateway.demo.command import main
from headspring.gateway.runtime.shape import SHAPE

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1200)]

_TAKEN = re.compile(r'^headspring_stage_records_in_total\{stage="([^"]+)"\} (\d+)', re.MULTILINE)
_BY_SHARD = ("windows", "detect", "store")
"""Roles whose work is spread over partitions even when there is one tenant; that of others goes by tenant."""


def taken(role: dict[str, Any]) -> Counter[str]:
    """Records that each stage of a process took."""
    text = httpx2.get(f"{role['health']}/metrics", timeout=30.0, trust_env=False).text
    return Counter({stage: int(count) for stage, count in _TAKEN.findall(text)})


def test_two_processes_of_every_role_do_what_one_does(tmp_path: Path) -> None:
    with stack.servers(tmp_path / "servers", print) as settings, ExitStack() as started:
        place = stack.configure(tmp_path, settings)
        first = started.enter_context(stack.roles(tmp_path, place, print))
        second: dict[str, dict[str, Any]] = {}
        for shape in SHAPE:
            doors = {setting: free_port() for setting in shape.doors}
            environ = {f"HEADSPRING_{setting.upper()}": str(port) for setting, port in doors.items()}
            second[shape.name] = {
                **started.enter_context(stack.role(shape.name, tmp_path, place, environ=environ)),
                **doors,
            }
        file = tmp_path / "stack.json"
        # The shop sends to the second ingestion and is watched through the first gateway.
        otlp = f"http://127.0.0.1:{second['ingestion']['otlp_port']}"
        file.write_text(json.dumps({**first, "otlp": otlp, "pid": os.getpid()}))
        assert main("payment-delay", True, False, tmp_path / "demo", 420.0, stack_file=file) == 0

        for shape in SHAPE:
            both = [taken(first["roles"][shape.name]), taken(second[shape.name])]
            print(shape.name, *[dict(one) for one in both])
            if shape.name in _BY_SHARD:
                assert all(sum(one.values()) > 0 for one in both), f"a process of {shape.name} had nothing to do"
            elif shape.name != "ingestion":  # which reads nothing but descriptions
                assert sum(sum(one.values()) for one in both) > 0
        gateways = [
            Headspring(url=url, otlp_url="", grpc_target="", api_key=place["key"])
            for url in (place["url"], f"http://127.0.0.1:{second['gateway']['port']}")
        ]
        one, other = (
            eventually(
                lambda gateway=gateway: [gateway.incidents(), gateway.get("/api/v1/runs")["items"]],  # type: ignore[misc]
                lambda found: bool(found[0]) and bool(found[1]),
            )
            for gateway in gateways
        )
        assert one == other
        assert [run["state"] for run in one[1]] == ["succeeded"], "one run, by one of two"
