"""Our indices: names, templates, mappings, and which log partition a line belongs to.

Of incidents, diagnoses, alerts and changes the truth is `data`, the protobuf bytes, kept and not indexed; what lists
filter and sort by stands beside it. Of a log line the truth is the source itself.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from headspring.knowledge.documents.elasticsearch.settings import ElasticsearchSettings
from headspring.proto.clock import NS_PER_S
from headspring.proto.ids import digest

KINDS = ("incidents", "diagnoses", "alerts", "changes")
"""One index each, behind an alias."""
LOGS = "logs"
SCHEMA = 1
"""Rises with every change of a mapping. A newer installation's templates are left alone."""

_HOUR_NS = 3600 * NS_PER_S
_LATEST = 30 * 24 * _HOUR_NS
_EARLIEST = 24 * _HOUR_NS
"""A line whose time is further from when it was received is not given a partition of its own day: a sender's wrong
clock must not make an index for every day that ever was."""
_OTHER = "other"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PARTITION = re.compile(r"(\d{4})\.(\d\d)\.(\d\d)-(\d\d)-(\d\d?)h")

_KEYWORD = {"type": "keyword"}
_FILTER = {"type": "keyword", "doc_values": False}
"""Looked for, never sorted or counted by."""
_KEPT = {"type": "keyword", "index": False, "doc_values": False}
_LONG = {"type": "long"}
_KEPT_LONG = {"type": "long", "index": False}
_WORDS = {"type": "text", "analyzer": "words", "norms": False}
_DATA = {"type": "binary"}
_ANALYSIS = {
    "tokenizer": {"words": {"type": "char_group", "tokenize_on_chars": ["whitespace", "punctuation", "symbol"]}},
    "analyzer": {"words": {"type": "custom", "tokenizer": "words", "filter": ["lowercase", "asciifolding"]}},
}
"""As SQLite's FTS5 reads text: words are what stands between separators, without case and accents."""

_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "incidents": {
        "tenant": _KEYWORD, "id": _KEYWORD, "version": _KEPT_LONG, "state": _KEYWORD, "sort_ns": _LONG,
        "updated_ns": _LONG, "entities": _FILTER, "aliases": _FILTER, "words": _WORDS, "data": _DATA,
    },
    "diagnoses": {"tenant": _KEYWORD, "id": _KEYWORD, "version": _KEPT_LONG, "sort_ns": _KEPT_LONG, "data": _DATA},
    "alerts": {
        "tenant": _KEYWORD, "id": _KEYWORD, "version": _KEPT_LONG, "status": _KEYWORD, "entity": _KEYWORD,
        "sort_ns": _LONG, "data": _DATA,
    },
    "changes": {"tenant": _KEYWORD, "id": _KEYWORD, "entity": _KEYWORD, "time_ns": _LONG, "data": _DATA},
    LOGS: {
        "tenant": _KEYWORD, "entity": _KEYWORD, "time_ns": _LONG, "order": _KEPT_LONG, "tie": _KEPT_LONG,
        "severity": {"type": "integer"}, "severity_text": _KEPT, "body": _WORDS, "attributes": _WORDS,
        "trace_id": {**_FILTER, "ignore_above": 256}, "span_id": _KEPT,
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Partition:
    """A log index and the event times in it, start inclusive, end exclusive; `end_ns` None: any time."""

    index: str
    start_ns: int = 0
    end_ns: int | None = None


@functools.lru_cache(maxsize=1024)
def _partition(log_start: str, number: int, hours: int) -> str:
    """The index of a partition, counted from 1970; asked for every line."""
    start = _EPOCH + timedelta(hours=number * hours)
    return f"{log_start}{start:%Y.%m.%d-%H}-{hours}h"


class Schema:
    """Names and bodies for one installation's settings."""

    def __init__(self, settings: ElasticsearchSettings) -> None:
        self._settings = settings
        self._partition_ns = settings.log_partition_hours * _HOUR_NS
        self._log_start = f"{settings.prefix}-{LOGS}-"

    def alias(self, kind: str) -> str:
        """What a kind is read by, and all but logs written by."""
        return f"{self._settings.prefix}-{kind}"

    def first_index(self, kind: str) -> str:
        """The index behind the alias of a new installation."""
        return f"{self.alias(kind)}-000001"

    def pattern(self, kind: str) -> str:
        """The indices of a kind, whatever their alias shows of them."""
        return f"{self.alias(kind)}-*"

    def partition(self, time_ns: int, received_ns: int) -> str:
        """The index of a log line: it depends on nothing but the line and its batch, so a replay finds it there.

        Args:
            received_ns: when the batch was received; 0 unknown: the line's own time is believed.
        """
        if received_ns and not received_ns - _LATEST <= time_ns <= received_ns + _EARLIEST:
            return self._log_start + _OTHER
        return _partition(self._log_start, time_ns // self._partition_ns, self._settings.log_partition_hours)

    def partition_of(self, index: str) -> Partition | None:
        """What an index of ours covers; None if it is no log index."""
        if not index.startswith(self._log_start):
            return None
        name = index.removeprefix(self._log_start)
        if name == _OTHER:
            return Partition(index)
        found = _PARTITION.fullmatch(name)
        if found is None:
            return None
        year, month, day, hour, hours = map(int, found.groups())
        start_ns = (datetime(year, month, day, hour, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1) * NS_PER_S
        return Partition(index, start_ns, start_ns + hours * _HOUR_NS)

    def template(self, kind: str, *, lifecycle: bool) -> dict[str, Any]:
        """The body of a kind's index template.

        Args:
            lifecycle: the server has index lifecycles (ILM).
        """
        logs = kind == LOGS
        index: dict[str, Any] = {
            "number_of_shards": self._settings.log_shards if logs else 1,
            "translog.durability": "request",  # on the disk before the answer
            "refresh_interval": "1s" if logs else "500ms",  # said, so that an index nobody searches is listed too
            "codec": "best_compression" if logs else "default",
        }
        if self._settings.replicas is None:
            index["auto_expand_replicas"] = "0-1"
        else:
            index["number_of_replicas"] = self._settings.replicas
        if logs and lifecycle:
            index["lifecycle.name"] = self.alias(LOGS)
        body: dict[str, Any] = {
            "index_patterns": [self.pattern(kind)],
            "priority": 500,  # above the server's own, whose `logs-*-*` a prefix might meet
            "template": {
                "settings": {"index": index, "analysis": _ANALYSIS},
                "mappings": {"dynamic": "strict", "properties": dict(_FIELDS[kind])},
            },
        }
        known = [body]
        if logs:
            body["template"]["aliases"] = {self.alias(LOGS): {}}  # every partition is read
            known.append(self.lifecycle_policy())
        body["_meta"] = {"schema": SCHEMA, "digest": digest(json.dumps(known, sort_keys=True))}
        return body

    def lifecycle_policy(self) -> dict[str, Any]:
        """For a server with ILM: log indices go when the newest line they may hold is out of retention."""
        return {
            "phases": {"delete": {"min_age": f"{self._retention_s()}s", "actions": {"delete": {}}}},
            "_meta": {"schema": SCHEMA},
        }

    def lifecycle_settings(self, index: str) -> dict[str, Any]:
        """From when the lifecycle of a log index counts: the end of its times, not when it was made."""
        partition = self.partition_of(index)
        if partition is None or partition.end_ns is None:
            return {}
        return {"index": {"lifecycle.origination_date": max(0, partition.end_ns // 1_000_000)}}

    def _retention_s(self) -> int:
        return round(self._settings.log_retention.total_seconds())
