"""Detection as the gateway sees it: its settings, and how well every entity is.

In one process the stage itself is asked. In several, settings travel on the topic `configuration` to every
process that detects, and these leave their scores in the cache, where the gateway reads them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from headspring.analytics.detect.health import Health
from headspring.analytics.detect.stage import DetectConfig, DetectStage
from headspring.proto import codec
from headspring.proto.action import Configuration
from headspring.proto.errors import ConfigError, ContractError, Unavailable
from headspring.proto.topics import CONFIGURATION, record_key
from headspring.streaming.engine.port import Outgoing
from headspring.streaming.log.port import EventLog, Record, StoredRecord

NAME = "detection"
"""Of the settings, on the topic."""
_SCORES_TTL_S = 30.0
"""Scores of a process that reports no more are gone after this."""
REPORT_EVERY_S = 2.0


class Detection(Protocol):
    """What endpoints and pages ask."""

    @property
    def config(self) -> DetectConfig: ...

    async def configure(self, config: DetectConfig, *, actor: str, time_ns: int) -> None:
        """In force soon after, and after a restart: durable on return."""
        ...

    def health_scores(self, tenant: str) -> Mapping[str, Health]:
        """By entity; an entity that was not watched for long enough has none. May block."""
        ...


class ScoreCache(Protocol):
    """The part of `headspring.knowledge.coordination` `Cache` that carries scores."""

    def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]: ...

    def put_many(self, items: Mapping[str, bytes], *, ttl_s: float) -> None: ...


class LocalDetection:
    """The stage of this process; its settings are a file."""

    def __init__(self, stage: DetectStage, file: Path) -> None:
        self._stage = stage
        self._file = file

    @property
    def config(self) -> DetectConfig:
        return self._stage.config

    async def configure(self, config: DetectConfig, *, actor: str, time_ns: int) -> None:
        # First written, then in force: what a restart would forget was not accepted.
        await asyncio.to_thread(_replace, self._file, json.dumps(config.to_json(), indent=2))
        self._stage.configure(config)

    def health_scores(self, tenant: str) -> Mapping[str, Health]:
        return self._stage.health_scores(tenant)


class SharedDetection:
    """Stages of other processes."""

    def __init__(self, log: EventLog, cache: ScoreCache, *, partitions: int) -> None:
        """`partitions`: of `features`, each judged by one process."""
        self._log = log
        self._cache = cache
        self._partitions = partitions
        self._config = DetectConfig()

    @property
    def config(self) -> DetectConfig:
        return self._config

    def apply(self, config: DetectConfig) -> None:
        """What a gateway, this one or another, has put on the topic."""
        self._config = config

    async def configure(self, config: DetectConfig, *, actor: str, time_ns: int) -> None:
        await self._log.append(CONFIGURATION.name, [configuration_record(config, actor=actor, time_ns=time_ns)])
        self._config = config

    def health_scores(self, tenant: str) -> Mapping[str, Health]:
        keys = [_scores_key(tenant, number) for number in range(self._partitions)]
        try:
            found = self._cache.get_many(keys)
        except Unavailable:
            return {}  # a page without scores is better than no page; the backend's state is told elsewhere
        scores: dict[str, Health] = {}
        for value in found.values():
            for entity, (score, reasons) in json.loads(value).items():
                one = Health(score=score, reasons=tuple(reasons))
                if entity not in scores or one.score < scores[entity].score:
                    scores[entity] = one
        return scores


class ConfigurationStage:
    """Hands the settings of `name` to `apply`, the newest last; for every process, from the oldest record on."""

    name = "gateway.configuration"
    inputs = (CONFIGURATION.name,)
    tick_s = 0.0

    def __init__(self, apply: Callable[[DetectConfig], None]) -> None:
        self._apply = apply

    async def process(self, topic: str, records: Sequence[StoredRecord]) -> Sequence[Outgoing]:
        """
        Raises:
            ContractError: a record holds no settings.
        """
        for stored in records:
            found = codec.decode(Configuration, stored.record.value)
            if found.name == NAME:
                try:
                    self._apply(DetectConfig.from_json(json.loads(found.value)))
                except (TypeError, ValueError) as error:
                    raise ContractError(f"these are not detection settings: {error}") from error
        return ()

    async def tick(self, now_ns: int) -> Sequence[Outgoing]:
        return ()

    def snapshot(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        return None


async def report_scores(
    stages: Callable[[], Iterable[tuple[int, DetectStage]]],
    cache: ScoreCache,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Leaves the scores of this process' stages, by partition, in the cache, until cancelled."""
    while True:
        items = {
            _scores_key(tenant, partition): json.dumps(
                {entity: [one.score, list(one.reasons)] for entity, one in stage.health_scores(tenant).items()}
            ).encode()
            for partition, stage in stages()
            for tenant in stage.tenants()
        }
        if items:
            # Scores are for looking at; they come again as soon as the cache does.
            with contextlib.suppress(Unavailable):
                await asyncio.to_thread(cache.put_many, items, ttl_s=_SCORES_TTL_S)
        await sleep(REPORT_EVERY_S)


def configuration_record(config: DetectConfig, *, actor: str, time_ns: int) -> Record:
    """Detection's settings as a record of the topic `configuration`."""
    message = Configuration(name=NAME, value=json.dumps(config.to_json()), time_ns=time_ns, actor=actor)
    return Record(key=record_key(NAME), value=codec.encode(message), time_ns=time_ns)


def read_file(file: Path) -> DetectConfig:
    """Settings from a file; the defaults where there is none.

    Raises:
        ConfigError: the file holds something else.
    """
    if not file.exists():
        return DetectConfig()
    try:
        return DetectConfig.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{file} holds no detection settings: {error}; mend or remove it") from error


def _scores_key(tenant: str, partition: int) -> str:
    return f"health/{tenant}/{partition}"


def _replace(file: Path, text: str) -> None:
    """Whole or not at all, so that a crash leaves settings that can be read."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)
