"""Records half an hour of the demo shop with its faults: `python -m tests.equality.record FILE [MINUTES [FAULT…]]`.

One fault after another, each for a while and then taken back; nobody approves anything. The file holds what the shop
sent. The one that the tests play is beside this module.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.equality import recording

from headspring.gateway.demo.scenario import BY_NAME, SCENARIOS
from headspring.gateway.demo.screen import Screen
from headspring.gateway.demo.stand import Stand, open_stand
from headspring.proto.clock import SystemClock
from headspring.proto.errors import Unavailable
from headspring.streaming.log.port import Record
from headspring.streaming.log.segments import SegmentLog

BASELINE_S = 90.0
FAULT_S = 70.0
"""Long enough for a diagnosis that has settled."""
SHOP_S = 120.0
"""Longest wait for the shop to take a fault."""


def record(file: Path, minutes: float, names: Sequence[str] = ()) -> None:
    with tempfile.TemporaryDirectory(prefix="headspring-recording-") as folder:
        with open_stand(Path(folder), Screen("Recording of the demo shop")) as stand:
            time.sleep(BASELINE_S)
            for scenario in [BY_NAME[name] for name in names] or SCENARIOS:
                end_s = time.monotonic() + minutes * 60
                for fault in scenario.faults:
                    _tell(stand, fault.kind, fault.body)
                _say(f"{scenario.name} put in")
                time.sleep(FAULT_S)
                _tell(stand, "clear", {})
                _say(f"{scenario.name} taken back")
                time.sleep(max(0.0, end_s - time.monotonic()))
        found = asyncio.run(_read(Path(folder) / "platform" / "log"))
    recording.write(file, found)
    seconds = (found[-1][1].time_ns - found[0][1].time_ns) / 1e9
    _say(f"{len(found)} records of {seconds:.0f} s in {file} ({file.stat().st_size / 1e6:.1f} MB)")


def _tell(stand: Stand, what: str, body: Mapping[str, Any]) -> None:
    """Asks until the shop does it: on a busy machine it may not answer in time."""
    deadline_s = time.monotonic() + SHOP_S
    while True:
        try:
            stand.shop.post(f"/simulate/{what}", body)
            return
        except Unavailable:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(1.0)


async def _read(folder: Path) -> list[recording.Played]:
    log = await SegmentLog.open(folder, clock=SystemClock())
    try:
        return [(topic, _neutral(record)) for topic, record in await recording.from_log(log)]
    finally:
        await log.close()


def _neutral(record: Record) -> Record:
    """Tracebacks in logs name the folder of the program; its length stays, and with it the encoding."""
    here = str(Path(__file__).resolve().parents[2]).encode()
    return replace(record, value=record.value.replace(here, b"/" + b"x" * (len(here) - 1)))


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    record(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 4.75, sys.argv[3:])
