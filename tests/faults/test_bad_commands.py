"""What a person at a terminal gets wrong: one line that says what was found and wanted, never a stack trace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx2
import pytest
from tests.servers.process import free_port

from headspring.gateway.demo.estate_runner import Shop
from headspring.gateway.demo.ledger import Ledger
from headspring.gateway.demo.processes import Export
from headspring.gateway.demo.supervisor import make_api

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

GOOD = """\
name: bounce
version: "1.0"
title: Bounce it
match:
  cause_kinds: [crash]
risk: low
steps:
  - id: restart
    name: Restart it
    uses: http
    with:
      url: ${{ settings.ops_url }}/services/${{ cause.name }}/restart
validate:
  - kind: alerts_cleared
"""
THREE_DEEP = "incident.alerts.all(a, incident.alerts.all(b, incident.alerts.all(c, true)))"
RUNBOOKS: tuple[tuple[str, str | bytes, str, str], ...] = (
    ("cut YAML", "name: [bounce\n", ":2:1: ", "expected"),
    ("not YAML", "name: a: b\n", ":1:8: ", "mapping values are not allowed"),
    ("a list", "- bounce\n", ":1:1: ", "a runbook is a mapping"),
    ("nothing", "", ":1:1: ", "a runbook is a mapping"),
    ("not UTF-8", b"name: \xff\n", ":1:1: ", "not UTF-8"),
    ("a zero byte", "name: a\0b\n", ":1:1: ", "special characters are not allowed"),
    ("too large", "# " + "x" * 300_000, ":1:1: ", "262144"),
    ("too deep", "name: " + "[" * 200 + "]" * 200, ":1:", "nested deeper than 12"),
    ("an anchor", "name: &a bounce\n", ":1:7: ", "anchors and aliases are refused"),
    ("two documents", GOOD + "---\n" + GOOD, ":15:1: ", "one file holds one runbook"),
    ("a key twice", GOOD.replace("risk: low", "risk: low\nrisk: high"), ":7:", "duplicate key"),
    ("an unknown field", GOOD.replace("risk: low", "risk: low\nowner: me"), ":7:", "Extra inputs are not permitted"),
    ("an unknown risk", GOOD.replace("low", "tiny"), ":6:", "'low', 'medium' or 'high'"),
    ("an unknown executor", GOOD.replace("uses: http", "uses: shell"), ":10:", "'http' or 'process'"),
    ("an unknown reference", GOOD.replace("cause.name", "cause.nmae"), ":12:", "cause.nmae"),
    ("a condition that is none", GOOD.replace("[crash]", "[crash]\n  condition: cause."), ":6:", "does not parse"),
    ("a condition of other names", GOOD.replace("[crash]", "[crash]\n  condition: env.HOME"), ":6:", "can see cause"),
    ("a condition three deep", GOOD.replace("[crash]", f"[crash]\n  condition: {THREE_DEEP}"), ":6:", "3 deep"),
    ("a version that is a number", GOOD.replace('"1.0"', "1.0"), ":2:", "quoted text"),
    ("a list for a text", GOOD.replace("Bounce it", "[a]"), ":3:", "valid string"),
)


def headspring(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, to its end."""
    program = str(Path(sys.executable).with_name("headspring"))
    found = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
    )  # fmt: skip
    assert "Traceback" not in found.stdout + found.stderr, found.stderr[-3000:]
    return found


def write(file: Path, content: str | bytes) -> Path:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize(("name", "content", "place", "words"), RUNBOOKS, ids=[one[0] for one in RUNBOOKS])
def test_a_malformed_runbook_is_shown_by_file_and_line(
    tmp_path: Path, name: str, content: str | bytes, place: str, words: str
) -> None:
    file = write(tmp_path / "bad.yaml", content)
    write(tmp_path / "good.yaml", GOOD.replace("bounce", "other"))
    found = headspring("lint", str(tmp_path))
    assert found.returncode == 1
    lines = [line for line in found.stdout.splitlines() if line.startswith(f"{file}{place}")]
    assert any(words in line for line in lines), found.stdout
    assert "good.yaml" not in found.stdout


def test_two_runbooks_of_one_name_are_told_apart_by_their_files(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        write(tmp_path / name, GOOD)
    found = headspring("lint", str(tmp_path))
    assert (found.returncode, found.stdout) == (
        1, f"{tmp_path}/b.yaml:1:1: the name 'bounce' is taken by {tmp_path}/a.yaml\n",
    )  # fmt: skip


@pytest.mark.parametrize("content", [GOOD.replace("low", "tiny"), THREE_DEEP], ids=["a bad risk", "no runbook"])
def test_the_platform_does_not_start_with_a_runbook_that_it_cannot_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "own").mkdir()
    write(tmp_path / "own" / "bad.yaml", content)
    found = up(tmp_path, "--runbooks", str(tmp_path / "own"))
    assert found.returncode == 1
    assert found.stderr.startswith(f"headspring: {tmp_path}/own/bad.yaml:")


def up(folder: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ports = [text for name in ("port", "otlp-port", "grpc-port") for text in (f"--{name}", str(free_port()))]
    return headspring("up", "--data", str(folder / "data"), *ports, *more, **environment)


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (("--pane-s", "0"), {}, ("pane_s", "0", "below 1", "seconds")),
        ((), {"HEADSPRING_PANE_S": "soon"}, ("pane_s (from environment)", "'soon' is not float")),
        ((), {"HEADSPRING_HOST_METRICS": "maybe"}, ("host_metrics (from environment)", "'maybe' is not bool")),
        ((), {"HEADSPRING_BOOTSTRAP_KEY": "short"}, ("bootstrap_key has 5 characters", "at least 16")),
        (("--runbooks", "/nowhere/at/all"), {}, ("the runbook folder /nowhere/at/all does not exist",)),
        (("--runbook-settings", "nonsense"), {}, ("runbook_settings", "'nonsense' is not NAME=VALUE")),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_is_named_with_what_it_takes(
    tmp_path: Path, arguments: tuple[str, ...], environment: Mapping[str, str], words: tuple[str, ...]
) -> None:
    found = up(tmp_path, *arguments, **environment)
    assert found.returncode == 1
    assert found.stderr.startswith("headspring: ")
    for word in words:
        assert word in found.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [("port = [", "is not TOML"), ("prot = 1\n", "unknown setting prot"), ("port = 'x'\n", "setting port (from file")],
)
def test_a_settings_file_that_cannot_be_used_is_named(tmp_path: Path, content: str, words: str) -> None:
    file = write(tmp_path / "headspring.toml", content)
    found = headspring("config", "--file", str(file))
    assert (found.returncode, found.stdout) == (1, "")
    assert words in found.stderr
    assert str(file) in found.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("demo", "--fault", "nonsense"), ("no scenario 'nonsense'", "payment-delay", "two-faults", "none")),
        (("demo", "--minutes", "soon"), ("--minutes", "valid number")),
        (("nonsense",), ("No such command 'nonsense'",)),
        (("lint", "{folder}/none.yaml"), ("cannot read {folder}/none.yaml", "No such file")),
        (("keys", "--role", "king"), ("role is 'king'", "ingest, viewer, operator, admin")),
        (("replay", "{folder}/none"), ("{folder}/none holds no event log", "data folder of an installation")),
        (("incidents", "-o", "xml"), ("'xml'", "table")),
    ],
)
def test_a_command_that_cannot_be_carried_out_says_why(
    tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    folder = str(tmp_path)
    found = headspring(*(one.format(folder=folder) for one in arguments), HEADSPRING_DATA=str(tmp_path / "data"))
    assert found.returncode in (1, 2)
    for word in words:
        assert word.format(folder=folder) in found.stderr, found.stderr


# -- the demo shop's own API; refused requests never reach the shop, so it need not run


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    stopped = Shop(tmp_path, Export(otlp_url="http://127.0.0.1:9", api_key="none"), platform_url="", rate=1.0)
    ledger = Ledger(tmp_path / "operations.db")
    transport = httpx2.ASGITransport(app=make_api(stopped, ledger))
    async with httpx2.AsyncClient(transport=transport, base_url="http://shop.example") as client:
        yield client
    ledger.close()


SIMULATED: tuple[tuple[str, object, int, tuple[str, ...]], ...] = (
    ("/simulate/flood", {}, 422, ("no fault 'flood'", "delay, error, crash, deploy, clear")),
    ("/simulate/delay", {}, 422, ("service", "required")),
    ("/simulate/delay", {"service": "paymnt"}, 422, ("'payment'", "found 'paymnt'")),
    ("/simulate/delay", {"service": 7}, 422, ("'payment'", "found 7")),
    ("/simulate/delay", {"service": "payment", "delay_ms": -1}, 422, ("delay_ms", "greater than 0", "found -1")),
    ("/simulate/delay", {"service": "payment", "delay_ms": 1e9}, 422, ("less than or equal to 10000",)),
    ("/simulate/delay", b'{"service": "payment", "delay_ms": NaN}', 422, ("delay_ms", "found nan")),
    ("/simulate/delay", b'{"service": ', 422, ("JSON",)),
    ("/simulate/delay", b"", 422, ("required",)),
    ("/simulate/delay", [], 422, ("valid dictionary", "found []")),
    ("/simulate/delay", b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 400, ("no JSON that can be read",)),
    ("/simulate/delay", b'{"service": "\xff"}', 400, ("no JSON that can be read",)),
    ("/simulate/error", {"service": "payment", "ratio": 2}, 422, ("ratio", "less than or equal to 1", "found 2")),
    ("/simulate/error", {"service": "payment", "ratio": "half"}, 422, ("valid number", "found 'half'")),
    ("/simulate/crash", {"service": "payment", "signal": 9}, 422, ("signal", "not permitted")),
    ("/simulate/deploy", {"service": "payment", "version": "../x"}, 422, ("version", "pattern", "found '../x'")),
    ("/services/paymnt/restart", {}, 404, ("paymnt", "storefront, checkout")),
    ("/services/payment/scale", {"replicas": 99}, 422, ("replicas", "found 99")),
    ("/services/payment/rollback", {"version": "../x"}, 422, ("version", "found '../x'")),
    ("/nonsense", {}, 404, ("Not Found",)),
)


@pytest.mark.parametrize(("path", "body", "status", "words"), SIMULATED)
async def test_a_fault_that_the_shop_does_not_know_is_refused_in_words(
    shop: httpx2.AsyncClient, path: str, body: object, status: int, words: tuple[str, ...]
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await shop.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    for word in words:
        assert word in answer.json()["detail"]
