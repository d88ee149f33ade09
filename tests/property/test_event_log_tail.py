"""Whatever happens to the last frame on disk, everything acknowledged before it is there."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from headspring.proto.clock import SystemClock
from headspring.streaming.log.frames import decode_records, encode_frame, is_whole, read_header, scan
from headspring.streaming.log.port import Record
from headspring.streaming.log.segments import SegmentLog
from headspring.streaming.testing import record, take, values

RECORDS = st.builds(
    Record,
    key=st.binary(max_size=20),
    value=st.binary(max_size=200),
    time_ns=st.integers(-(2**63), 2**63 - 1),
    headers=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)


@given(records=st.lists(RECORDS, min_size=1, max_size=20), first=st.integers(0, 2**62), step=st.integers(1, 1000))
def test_a_frame_gives_back_what_it_was_made_of(records: list[Record], first: int, step: int) -> None:
    numbered = [(first + place * step, item) for place, item in enumerate(records)]
    frame = encode_frame(numbered)
    header = read_header(frame)
    assert header is not None
    assert is_whole(frame, header)
    assert list(decode_records(frame, header)) == numbered


@given(
    batches=st.lists(st.lists(RECORDS, min_size=1, max_size=4), min_size=1, max_size=6),
    where=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_one_flipped_bit_loses_exactly_its_own_frame(batches: list[list[Record]], where: float, bit: int) -> None:
    frames, offset = [], 0
    for batch in batches:
        frames.append(encode_frame([(offset + place, item) for place, item in enumerate(batch)]))
        offset += len(batch)
    data = bytearray(b"".join(frames))
    at = int(where * len(data))
    data[at] ^= 1 << bit
    starts = [sum(len(frame) for frame in frames[:place]) for place in range(len(frames))]
    hit = max(place for place, start in enumerate(starts) if start <= at)
    found = scan(bytes(data))
    assert [position for position, _ in found.frames] == [start for place, start in enumerate(starts) if place != hit]
    assert found.damaged == (1 if hit < len(frames) - 1 else 0)


async def _lose_tail(batches: list[int], cut: float, flip: bool, segment_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        log = await SegmentLog.open(path, clock=SystemClock(), segment_bytes=segment_bytes)
        sent: list[str] = []
        ends: list[int] = []
        for count in batches:
            more = [f"value {len(sent) + place}" for place in range(count)]
            await log.append("t", [record(value) for value in more])
            sent += more
            ends.append(len(sent))
        await log.close()
        newest = max((path / "topics" / "t").iterdir())
        frames = scan(newest.read_bytes(), from_offset=int(newest.stem)).frames
        position, header = frames[-1]
        data = bytearray(newest.read_bytes())
        at = position + int(cut * header.size)
        if flip:
            data[at] ^= 0x55
            newest.write_bytes(data)
        else:
            newest.write_bytes(data[:at])
        log = await SegmentLog.open(path, clock=SystemClock(), segment_bytes=segment_bytes)
        kept = header.first
        got = values(await take(await log.consumer("t", "g"), len(sent), wait_s=0.0))
        assert got == sent[:kept]
        assert kept == (ends[-2] if len(ends) > 1 else 0)
        # The log goes on where it was cut, and says what it cut.
        await log.append("t", [record("next")])
        assert values(await take(await log.consumer("t", "h"), kept + 1, wait_s=0.0)) == [*sent[:kept], "next"]
        assert log.stats().torn_bytes == (header.size if flip else at - position)
        await log.close()


@settings(max_examples=30, deadline=None)
@given(
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    cut=st.floats(0, 1, exclude_max=True),
    flip=st.booleans(),
    segment_bytes=st.sampled_from([200, 1 << 26]),
)
def test_only_a_torn_tail_is_lost(batches: list[int], cut: float, flip: bool, segment_bytes: int) -> None:
    asyncio.run(_lose_tail(batches, cut, flip, segment_bytes))
