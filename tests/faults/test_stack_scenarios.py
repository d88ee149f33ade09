"""Every fault of the demo on a distributed shape of its own: found, explained, approved, mended, and the memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.servers import stack

from headspring.gateway.demo.command import main
from headspring.gateway.demo.scenario import SCENARIOS

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1200)]

# A stack of its own each: what happened to a service before is history that a diagnosis rightly looks at.
CASES = [(scenario.name, False) for scenario in SCENARIOS] + [(SCENARIOS[0].name, True)]


@pytest.mark.parametrize(("fault", "with_flink"), CASES, ids=[f"{name}{'-flink' * on}" for name, on in CASES])
def test_a_fault_is_found_explained_and_mended_on_real_servers(fault: str, with_flink: bool, tmp_path: Path) -> None:
    with stack.servers(tmp_path / "servers", print, with_flink=with_flink) as settings:
        place = stack.configure(tmp_path, settings)
        if with_flink:
            stack.submit(place, print)
        with stack.roles(tmp_path, place, print) as found:
            file = tmp_path / "stack.json"
            file.write_text(json.dumps({**found, "pid": os.getpid()}))
            status = main(fault, True, False, tmp_path / "demo", 420.0, stack_file=file)
            rows = stack.memory(os.getpid())
            print(" · ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in rows))
            print(f"together {sum(size for _, size in rows) / 2**30:.2f} GiB")
            assert status == 0
