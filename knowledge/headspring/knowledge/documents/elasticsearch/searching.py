"""Searches: whole or not at all, one page more than asked to know whether there is a next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from elasticsearch import ApiError

from headspring.knowledge.documents.elasticsearch.connection import Connection, NoIndex
from headspring.knowledge.documents.fts import search_words
from headspring.proto.errors import Unavailable

MAX_PAGE = 1_000
"""Items in one page at most, whatever a caller asks for."""

_SHARDS_S = 2.0
"""How long a search waits for shards that are not there."""

Hit = Mapping[str, Any]
Filter = Mapping[str, Any]


def search(
    connection: Connection, index: str, filters: Sequence[Filter], *, size: int, sort: Sequence[str] = (),
    after: Sequence[object] = (), fields: Sequence[str] = (), count: bool = False,
) -> tuple[list[Hit], int]:  # fmt: skip
    """The hits in order, and how many there are in all where `count`.

    Args:
        sort: fields, newest or largest first.
        after: the sort values of the hit before the first one wanted.
        fields: of the source; none: the source is left out.

    Raises:
        NoIndex: there is no such index.
    """
    body: dict[str, Any] = {
        "query": {"bool": {"filter": list(filters)}},
        "size": size,
        "_source": list(fields) or False,
        "track_total_hits": count,
        "sort": [{field: "desc"} for field in sort] or ["_doc"],
    }
    if after:
        body["search_after"] = list(after)
    answer = _answer(connection, index, body)
    total = answer["hits"].get("total", {}).get("value", 0)
    return answer["hits"]["hits"], int(total)


def _answer(connection: Connection, index: str, body: dict[str, Any]) -> Mapping[str, Any]:
    """A log partition that is just being made has no shard to ask for a moment, and so has a node that just went."""
    deadline_s = time.monotonic() + _SHARDS_S
    while True:
        try:
            with connection.reading() as client:
                # Half an answer would look like a whole one.
                answer = client.search(index=index, body=body, allow_partial_search_results=False)
                return dict(answer.body)
        except Unavailable as error:
            cause = error.__cause__
            starting = isinstance(cause, ApiError) and cause.error == "search_phase_execution_exception"
            if not starting or time.monotonic() > deadline_s:
                raise
        time.sleep(_SHARDS_S / 40)


def total(connection: Connection, index: str, filters: Sequence[Filter]) -> int:
    """How many documents there are; 0 where there is no such index."""
    try:
        return search(connection, index, filters, size=0, count=True)[1]
    except NoIndex:
        return 0


def is_one_of(**conditions: str | Sequence[str]) -> list[Filter]:
    """`field` has the value, or one of the values; conditions that are empty are left out."""
    return [
        {"term": {field: value}} if isinstance(value, str) else {"terms": {field: list(value)}}
        for field, value in conditions.items()
        if value
    ]


def has_words(text: str, *fields: str) -> list[Filter] | None:
    """All words of a text, each in one of the fields; a word of several parts has them in a row. None: no word."""
    words = search_words(text)
    if not words:
        return None
    return [{"multi_match": {"query": word, "fields": list(fields), "type": "phrase"}} for word in words]


def between(field: str, start: int, end: int) -> Filter:
    """`start` inclusive, `end` exclusive."""
    return {"range": {field: {"gte": start, "lt": end}}}
