"""The shell examples of READMEs and of `--help`, run against a started platform."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.servers.headspring import Headspring, eventually

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def environment(platform: Headspring) -> dict[str, str]:
    """What a person has set who follows the README: address, key, the command on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HEADSPRING_URL": platform.url, "HEADSPRING_API_KEY": platform.api_key}


def commands(readme: str) -> list[str]:
    """Lines of the README's shell examples; a backslash goes on in the next line."""
    text = "".join(_BLOCK.findall((ROOT / readme).read_text(encoding="utf-8")))
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def headspring(platform: Headspring, *words: str, code: int = 0) -> Any:
    """The JSON that a command prints."""
    done = subprocess.run(
        ["headspring", *words, "-o", "json"], env=environment(platform), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


@pytest.mark.parametrize("readme", ["ingestion/README.md", "gateway/README.md"])
def test_every_command_of_a_readme_runs(readme: str, platform: Headspring, tmp_path: Path) -> None:
    found = commands(readme)
    assert len(found) > 1
    for command in found:
        done = subprocess.run(
            ["bash", "-euc", command], env=environment(platform), cwd=tmp_path, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_what_the_ingestion_readme_sends_is_there(platform: Headspring) -> None:
    assert eventually(lambda: platform.series("orders_total"), bool)[0]["value"] == 3.0
    assert eventually(platform.incidents, bool)


def test_the_commands_that_ask_a_platform_answer_what_its_api_does(platform: Headspring) -> None:
    listed = eventually(lambda: headspring(platform, "incidents", "--state", "open"), bool)
    incident_id = listed[0]["incident_id"]
    assert headspring(platform, "incident", incident_id)["incident"]["incident_id"] == incident_id
    assert {item["name"] for item in headspring(platform, "runbooks")} >= {"restart-service", "roll-back-deploy"}


def test_automation_is_stopped_and_goes_on(platform: Headspring) -> None:
    assert headspring(platform, "freeze") == {"frozen": True}
    assert platform.get("/api/v1/automation") == {"frozen": True}
    assert headspring(platform, "thaw") == {"frozen": False}
    assert [item["action"] for item in platform.get("/api/v1/audit")["items"][:2]] == [
        "automation.thawed", "automation.frozen",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("incident", "inc-none"), "there is no incident inc-none"),
        (("approve", "run-none", "--yes"), "there is no run run-none"),
        (("reject", "run-none"), "there is no run run-none"),
        (("incidents", "--url", "http://127.0.0.1:9"), "http://127.0.0.1:9"),
        (("incidents", "--key", "hsk_wrong"), "key"),
    ],
)
def test_a_command_that_cannot_do_it_says_why_in_one_line(
    platform: Headspring, words: tuple[str, ...], part: str
) -> None:
    said = headspring(platform, *words, code=1)
    assert part in said
    assert len(said.splitlines()) == 1
