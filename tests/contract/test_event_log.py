"""Every backend of the event log keeps the contract of its port."""

from __future__ import annotations

from pathlib import Path

import pytest

from headspring.proto.clock import SystemClock
from headspring.streaming.log.segments import SegmentLog
from headspring.streaming.testing import EventLogContract, MakeLog, MakeStatefulLog, StatefulLogContract


class TestSegmentLog(EventLogContract):
    @pytest.fixture
    def make_log(self, tmp_path: Path) -> MakeLog:
        return lambda: SegmentLog.open(tmp_path, clock=SystemClock())


class TestSegmentLogWithTinySegments(EventLogContract):
    """Every few records a new file: positions, recovery and reads cross files all the time."""

    @pytest.fixture
    def make_log(self, tmp_path: Path) -> MakeLog:
        return lambda: SegmentLog.open(tmp_path, clock=SystemClock(), segment_bytes=256)


class TestSegmentLogWithState(StatefulLogContract):
    @pytest.fixture
    def make_log(self, tmp_path: Path) -> MakeStatefulLog:
        return lambda: SegmentLog.open(tmp_path, clock=SystemClock())
