"""The detection stage: features in, alerts out, within the call that brings the features."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headspring.analytics.detect import evaluate as evaluation
from headspring.analytics.detect import hold
from headspring.analytics.detect.config import DetectConfig
from headspring.analytics.detect.evaluate import RANKS, Changes
from headspring.analytics.detect.health import Health, health
from headspring.analytics.detect.policy import Policy
from headspring.analytics.detect.publish import alert_of
from headspring.analytics.detect.table import Table
from headspring.proto import codec
from headspring.proto.clock import Clock
from headspring.proto.detection import FeatureBatch, Severity
from headspring.proto.errors import ContractError
from headspring.proto.telemetry import SeriesDescriptor
from headspring.proto.topics import ALERTS, FEATURES, SERIES, record_key
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import StoredRecord

__all__ = ["DetectConfig", "DetectStage", "Health"]

_SNAPSHOT_FORMAT = 1
_SERVICE_SIGNALS = (Policy.LATENCY, Policy.ERRORS, Policy.REQUESTS)


class DetectStage:
    """`Stage` "analytics.detect", the basic tier: robust statistics on every series, from its own past.

    A series is judged once it is described and has been watched for a while (`DetectConfig.min_updates`,
    `min_observed_s`). Alerts are about event time, and their ids follow from it: after a restart from a
    snapshot the same input gives the same alerts.
    """

    name = "analytics.detect"
    inputs = (FEATURES.name, SERIES.name)
    tick_s = 1.0
    snapshot_in_thread = True
    """Compressing the columns takes a while."""

    def __init__(self, *, clock: Clock, config: DetectConfig | None = None, snapshot_every_s: float = 10.0) -> None:
        """
        Args:
            clock: Stamps, and how long a series was not heard of.
            config: Thresholds; the defaults if None.
            snapshot_every_s: Seconds between commits; a restart replays at most this much input.
        """
        self._clock = clock
        self._config = config or DetectConfig()
        self.snapshot_every_s = snapshot_every_s
        self._tables: dict[str, Table] = {}

    @property
    def config(self) -> DetectConfig:
        return self._config

    def configure(self, config: DetectConfig) -> None:
        """In force from the next evaluation on."""
        self._config = config
        for table in self._tables.values():
            table.max_series = config.max_series

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        """
        Raises:
            ContractError: a record is no feature batch, or no series descriptor; none of the records was used.
        """
        if topic == SERIES.name:
            now_s = self._clock.monotonic_s()
            for series in [codec.decode(SeriesDescriptor, item.record.value) for item in records]:
                self._table(series.tenant).describe(series, now_s)
            return []
        out: list[Outgoing] = []
        for batch in [codec.decode(FeatureBatch, item.record.value) for item in records]:
            table = self._table(batch.tenant)
            changes = evaluation.evaluate(
                table, batch.series_id, batch.last_time_ns, batch.last, self._config, self._clock.monotonic_s()
            )
            out += self._outgoing(batch.tenant, table, changes)
        return out

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        now_s = self._clock.monotonic_s()
        return [
            item
            for tenant, table in self._tables.items()
            for item in self._outgoing(tenant, table, evaluation.look_for_absent(table, now_ns, self._config, now_s))
        ]

    def health_scores(self, tenant: str) -> Mapping[str, Health]:
        """Health of every entity whose own signals are judged; one that was not watched for long enough has none."""
        table = self._tables.get(tenant)
        if table is None:
            return {}
        n, col = table.size, table.col
        own = np.isin(col["policy"][:n], _SERVICE_SIGNALS) & (col["edge"][:n] == 0)
        warm = np.flatnonzero(own & (col["updates"][:n] > self._config.min_updates))
        found: dict[str, list[tuple[Severity, str]]] = {table.series[row].entity: [] for row in warm.tolist()}
        firing = np.isin(col["state"][:n], (hold.FIRING, hold.RECOVERING))
        for row in np.flatnonzero(firing).tolist():
            alert = alert_of(table, row, tenant, ended=False, at_ns=int(col["last_ns"][row]))
            found.setdefault(alert.entity, []).append((RANKS[int(col["severity"][row])], alert.summary))
        return {entity: health(anomalies) for entity, anomalies in found.items()}

    def tenants(self) -> Sequence[str]:
        """Tenants of whom series are judged here."""
        return list(self._tables)

    def counts(self) -> dict[str, int]:
        """Series with a judge, series that found no room, alerts firing now."""
        tables = list(self._tables.values())
        return {
            "series": sum(table.size for table in tables),
            "homeless": sum(table.homeless for table in tables),
            "firing": sum(int((table.col["state"][: table.size] >= hold.FIRING).sum()) for table in tables),
        }

    def snapshot(self) -> bytes:
        arrays: dict[str, NDArray[Any]] = {
            f"{place}.{name}": array
            for place, table in enumerate(self._tables.values())
            for name, array in table.dump().items()
        }
        head = json.dumps({"format": _SNAPSHOT_FORMAT, "tenants": list(self._tables)}).encode()
        buffer = io.BytesIO()
        np.savez_compressed(buffer, head=np.frombuffer(head, dtype=np.uint8), **arrays)  # type: ignore[arg-type]  # names are ours
        return buffer.getvalue()

    def restore(self, state: bytes) -> None:
        """
        Raises:
            ContractError: `state` is no snapshot of this stage.
        """
        self._tables = {}
        if not state:
            return
        now_s = self._clock.monotonic_s()
        try:
            with np.load(io.BytesIO(state), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            head = json.loads(arrays.pop("head").tobytes())
            if head["format"] != _SNAPSHOT_FORMAT:
                # What another version has learned cannot be read: learning starts anew.
                return
            for place, tenant in enumerate(head["tenants"]):
                prefix = f"{place}."
                own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
                table = Table.load(own, max_series=self._config.max_series, now_s=now_s)
                table.silence_from_s = now_s + self._config.resume_s
                self._tables[tenant] = table
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ContractError(f"{len(state)} bytes are no detection snapshot: {error!r}") from error

    # Inside

    def _table(self, tenant: str) -> Table:
        table = self._tables.get(tenant)
        if table is None:
            table = self._tables[tenant] = Table(max_series=self._config.max_series)
        return table

    def _outgoing(self, tenant: str, table: Table, changes: Changes) -> list[Outgoing]:
        now_ns = self._clock.now_ns()
        told = [(row, False) for row in changes.firing.tolist()] + [(row, True) for row in changes.ended.tolist()]
        out = []
        for row, ended in told:
            at_ns = int(table.col["since_ns" if ended else "told_ns"][row])
            alert = alert_of(table, row, tenant, ended=ended, at_ns=at_ns)
            out.append(
                Outgoing(
                    topic=ALERTS.name, key=record_key(tenant, alert.entity), value=codec.encode(alert), time_ns=now_ns
                )
            )
        return out
