"""The layer rule holds, as `lint-imports` sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_no_room_imports_what_lies_above_or_beside_it() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_role_loads_only_the_clients_it_needs() -> None:
    """Each takes seconds of CPU and tens of megabytes, at every start of every process."""
    heavy = ("pandas", "neo4j", "elasticsearch", "sqlalchemy", "fastapi", "dbos", "minio", "redis", "faust")
    code = f"import sys, headspring.gateway.runtime.roles; print(*({{*{heavy}}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []
