"""The state table: a Faust table of bytes on a compacted changelog topic, one key per stage and partition number."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, cast

import faust
from aiokafka.errors import KafkaError  # type: ignore[import-untyped] # ships no types

from headspring.proto.errors import ContractError, Rejected, Unavailable
from headspring.streaming.engine.faust.codecs import Entry, decode, encode, epoch_of, key_of

NAME = "state"
MAX_ENTRY_BYTES = 24 * 1024 * 1024
"""Compressed. The changelog takes this much and a little."""
_LARGE_BYTES = 256 * 1024
"""Snapshots from here on are packed off the event loop."""


def changelog_of(group: str) -> str:
    """Kafka's name of the topic that holds the state of an app, as Faust calls it."""
    return f"{group}-{NAME}-changelog"


class StateTable(faust.Table[bytes, bytes]):
    """Changed only by `write`; recovered by Faust from the changelog."""

    logger = logging.getLogger("faust.headspring")

    def entry(self, stage: str, partition: int) -> Entry | None:
        data = self.data.get(key_of(stage, partition))
        return decode(data) if data else None

    async def write(self, stage: str, partition: int, entry: Entry) -> None:
        large = len(entry.state) >= _LARGE_BYTES
        data = await asyncio.to_thread(encode, entry) if large else encode(entry)
        if len(data) > MAX_ENTRY_BYTES:
            raise Rejected(
                f"the snapshot of {stage} takes {len(data)} bytes packed, over the limit of {MAX_ENTRY_BYTES} of a "
                "record: lower the limits that bound what the stage remembers"
            )
        key = key_of(stage, partition)
        try:
            # Shielded: a caller that is cancelled must not cancel what the producer will still set.
            await asyncio.shield(self.send_changelog(partition, key, data, "raw", "raw"))
        except KafkaError as error:
            raise Unavailable(f"Kafka does not take the snapshot of {stage} now: {error}") from error
        self.data[key] = data

    def forget(self, owned: Iterable[int]) -> None:
        """Lets go of what belongs to other partition numbers: if they come back, the changelog is read again."""
        kept = {str(partition).encode() for partition in owned}
        for key in [key for key in self.data if key.rpartition(b"\x1f")[2] not in kept]:
            del self.data[key]

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """An owner that was passed over and does not know it yet may still write: what is of an older epoch than
        what stands does not count. Called by Faust with what it read, in order."""
        for event in batch:
            data = cast("bytes | None", event.message.value)
            standing = self.data.get(event.message.key)
            if data and not (standing and _readable_epoch(data) < _readable_epoch(standing)):
                self.data[event.message.key] = data


def _readable_epoch(data: bytes) -> int:
    """Of what cannot be read: newer than everything, so that it is seen and told."""
    try:
        return epoch_of(data)
    except ContractError:
        return 1 << 62
