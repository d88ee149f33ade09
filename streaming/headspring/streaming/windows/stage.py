"""The window stage: metric batches in, features out, within a second or so of the sample.

Features are provisional in the sense that a late sample may still change them; nothing waits for a window
or a pane to close.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence

import numpy as np

from headspring.proto import codec
from headspring.proto.clock import NS_PER_S, Clock
from headspring.proto.detection import FeatureBatch
from headspring.proto.errors import ConfigError, ContractError
from headspring.proto.telemetry import MetricBatch
from headspring.proto.topics import FEATURES, METRICS, record_key
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import StoredRecord
from headspring.streaming.windows.state import Features, PaneState, WindowSpec

_ROWS = 65_536
"""Rows of one feature batch: about 6 MB."""
_FORGET_EVERY_S = 60.0
_SILENT_NS = 3600 * NS_PER_S
"""A series without a sample for this long, in event time, is forgotten."""
_Shard = tuple[str, int]


class WindowStage:
    """`Stage` "streaming.windows". Sliding windows per series, as panes."""

    name = "streaming.windows"
    inputs = (METRICS.name,)
    snapshot_in_thread = True
    """At 2 kB a series, writing it out would hold up the event loop."""

    def __init__(
        self,
        *,
        clock: Clock,
        pane_s: float = 10.0,
        window_s: float = 300.0,
        evaluate_every_s: float = 1.0,
        lateness_s: float = 2.0,
        snapshot_every_s: float = 30.0,
        max_series: int = 250_000,
    ) -> None:
        """
        Args:
            clock: Stamps and evaluation times.
            pane_s: Length of a pane, in seconds; the window slides by panes.
            window_s: Length of the window, in seconds, a multiple of `pane_s`.
            evaluate_every_s: Features of a changed series come at most this often, in seconds.
            lateness_s: A sample older than its series' newest by this much is dropped and counted. Delays nothing,
                but samples of this span are computed again at each evaluation.
            snapshot_every_s: Seconds between commits; a restart replays at most this much input.
            max_series: Series per tenant and shard; about 2 kB of memory each.

        Raises:
            ConfigError: a length that cannot be.
        """
        panes = round(window_s / pane_s) if pane_s > 0 else 0
        if panes < 1 or abs(panes * pane_s - window_s) > 1e-9:
            raise ConfigError(f"window_s is {window_s} and pane_s {pane_s}; wanted a multiple of pane_s above 0")
        if not 0 <= lateness_s < window_s:
            raise ConfigError(f"lateness_s is {lateness_s}; wanted at least 0 and less than window_s ({window_s})")
        if evaluate_every_s <= 0:
            raise ConfigError(f"evaluate_every_s is {evaluate_every_s}; wanted more than 0")
        self._clock = clock
        self._window_ns = round(window_s * NS_PER_S)
        self._every_s = evaluate_every_s
        self.tick_s = min(0.25, evaluate_every_s / 4)
        self.snapshot_every_s = snapshot_every_s
        self._spec = WindowSpec(
            pane_ns=round(pane_s * NS_PER_S),
            panes=panes,
            lateness_ns=round(lateness_s * NS_PER_S),
            max_series=max_series,
        )
        self._shards: dict[_Shard, PaneState] = {}
        self._touched = False
        self._evaluated_s = -np.inf
        self._forgot_s = clock.monotonic_s()

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        """Takes metric batches; the features too where it is time.

        Raises:
            ContractError: a record is no metric batch.
        """
        for batch in [codec.decode(MetricBatch, item.record.value) for item in records]:
            shard = (batch.tenant, batch.shard)
            state = self._shards.get(shard)
            if state is None:
                state = self._shards[shard] = PaneState(self._spec)
            state.take(batch.series_id, batch.time_ns, batch.value, batch.kind)
            self._touched = True
        return self._due()

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        now_s = self._clock.monotonic_s()
        if now_s - self._forgot_s >= _FORGET_EVERY_S:
            self._forgot_s = now_s
            for state in self._shards.values():
                state.forget(state.newest_ns - _SILENT_NS)
        return self._due()

    def snapshot(self) -> bytes:
        arrays = {
            f"{place}.{name}": array
            for place, state in enumerate(self._shards.values())
            for name, array in state.dump().items()
        }
        shards = json.dumps(list(self._shards)).encode()
        buffer = io.BytesIO()
        np.savez(buffer, shards=np.frombuffer(shards, dtype=np.uint8), **arrays)  # type: ignore[arg-type]  # names are ours
        return buffer.getvalue()

    def restore(self, state: bytes) -> None:
        """Also compiles the kernel, so that the first batch does not wait for it.

        Raises:
            ContractError: `state` is no snapshot of this stage.
        """
        self._shards = {}
        self._touched = True
        self._evaluated_s = -np.inf
        warm = np.zeros(1, dtype=np.int64)
        PaneState(self._spec).update(
            warm.astype(np.uint64), warm + 1, warm.astype(np.float64), warm.astype(np.uint8), 0
        )
        if not state:
            return
        try:
            with np.load(io.BytesIO(state), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            shards = json.loads(arrays.pop("shards").tobytes())
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise ContractError(f"{len(state)} bytes are no window snapshot: {error}") from error
        for place, (tenant, shard) in enumerate(shards):
            prefix = f"{place}."
            own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            panes = PaneState.load(self._spec, own)
            if panes is not None:
                self._shards[tenant, shard] = panes

    def counts(self) -> dict[str, int]:
        """Series known now; samples dropped since the first start: late, homeless (over `max_series`), repeated."""
        states = list(self._shards.values())
        return {
            "series": sum(state.series for state in states),
            "late": sum(state.late for state in states),
            "homeless": sum(state.homeless for state in states),
            "repeated": sum(state.repeated for state in states),
        }

    def _due(self) -> list[Outgoing]:
        now_s = self._clock.monotonic_s()
        if not self._touched or now_s - self._evaluated_s < self._every_s:
            return []
        self._evaluated_s = now_s
        self._touched = False
        now_ns = self._clock.now_ns()
        return [
            Outgoing(topic=FEATURES.name, key=record_key(*shard), value=codec.encode(batch), time_ns=now_ns)
            for shard, state in self._shards.items()
            for batch in self._batches(shard, state.features(), now_ns)
        ]

    def _batches(self, shard: _Shard, features: Features, now_ns: int) -> list[FeatureBatch]:
        batches = []
        for start in range(0, len(features), _ROWS):
            part = slice(start, start + _ROWS)
            times = features.last_time_ns[part]
            batches.append(
                FeatureBatch(
                    tenant=shard[0],
                    shard=shard[1],
                    window_end_ns=int(times.max()) + 1,
                    window_ns=self._window_ns,
                    emitted_ns=now_ns,
                    series_id=features.series_id[part],
                    count=features.count[part],
                    mean=features.mean[part],
                    std=features.std[part],
                    minimum=features.minimum[part],
                    maximum=features.maximum[part],
                    first=features.first[part],
                    last=features.last[part],
                    last_time_ns=times,
                    recent_mean=features.recent_mean[part],
                    recent_count=features.recent_count[part],
                )
            )
        return batches
