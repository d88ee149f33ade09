"""Start: is this an Elasticsearch we can work with, and are our indices there?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from elastic_transport import ConnectionError as NoConnection
from elastic_transport import ConnectionTimeout, TlsError
from elasticsearch import ApiError, Elasticsearch, UnsupportedProductError

from headspring.knowledge.documents.elasticsearch.connection import Connection, plain, reason_of
from headspring.knowledge.documents.elasticsearch.schema import KINDS, LOGS, SCHEMA, Schema
from headspring.proto.errors import BackendError, ConfigError, Unreachable

_MAJOR = 8
_SHARDS = "15s"
"""How long our indices may take to be ready."""
_ABSENT = (400, 404, 405)
"""What a server answers to a request it has no part for."""


def install(connection: Connection, schema: Schema) -> bool:
    """Checks the server, and makes the templates and indices that are missing; whether it has index lifecycles.

    Safe to run by many processes at once and at every start.

    Raises:
        ConfigError: the address, the sign-in, the server's version or a right is wrong; one line for the operator.
        Unavailable: it cannot do it now.
    """
    where = connection.settings.where
    with _telling(where), connection.writing() as client:
        _check_version(client, where)
        lifecycle = _has_lifecycle(client)
        fresh = [kind for kind in (*KINDS, LOGS) if _put_template(client, schema, kind, lifecycle=lifecycle)]
        if lifecycle and LOGS in fresh:
            client.ilm.put_lifecycle(name=schema.alias(LOGS), policy=schema.lifecycle_policy())
        for kind in KINDS:
            if kind in fresh:
                _update_mappings(client, schema, kind)
            _create(client, schema, kind)
        if LOGS in fresh:
            _update_mappings(client, schema, LOGS)
        # Another process may have made them a moment ago. Not by status: a new index counts as yellow before it works.
        aliases = [schema.alias(kind) for kind in KINDS]
        client.cluster.health(index=aliases, wait_for_active_shards=len(aliases), timeout=_SHARDS)
        _try_rights(client, schema, where)
    return lifecycle


def create_index(
    client: Elasticsearch,
    index: str,
    *,
    settings: Mapping[str, Any] = {},
    aliases: Mapping[str, Mapping[str, Any]] = {},
) -> None:
    """As its template says, and this; nothing where it is there already."""
    try:
        client.indices.create(index=index, settings=settings or None, aliases=aliases or None)
    except ApiError as error:
        if error.error != "resource_already_exists_exception":
            raise


def _check_version(client: Elasticsearch, where: str) -> None:
    # Without a version asked for in Accept: an older server would refuse that before it says which it is.
    answer: Any = client.perform_request("GET", "/", headers={"accept": "*/*"}).body
    number = str(answer.get("version", {}).get("number", "")) if isinstance(answer, dict) else ""
    if number.partition(".")[0] != str(_MAJOR):
        raise ConfigError(
            f"elasticsearch_url: Elasticsearch {number or 'of unknown version'} answers at {where}; wanted version "
            f"{_MAJOR}: point it at a server of that line"
        )


def _has_lifecycle(client: Elasticsearch) -> bool:
    """A distribution without the lifecycle module has nothing that answers."""
    try:
        features = client.xpack.info(categories=["features"]).body.get("features", {})
    except ApiError as error:
        if error.meta.status in _ABSENT:
            return False
        raise
    found = features.get("ilm", {})
    return bool(found.get("available") and found.get("enabled"))


def _put_template(client: Elasticsearch, schema: Schema, kind: str, *, lifecycle: bool) -> bool:
    """True if it was not there as it is now."""
    name, body = schema.alias(kind), schema.template(kind, lifecycle=lifecycle)
    try:
        found = client.indices.get_index_template(name=name).body["index_templates"]
    except ApiError as error:
        if error.meta.status != 404:
            raise
        found = []
    for one in found:
        meta = one["index_template"].get("_meta", {})
        if meta.get("digest") == body["_meta"]["digest"] or int(meta.get("schema", 0)) > SCHEMA:
            return False
    client.indices.put_index_template(
        name=name, index_patterns=body["index_patterns"], priority=body["priority"], template=body["template"],
        meta=body["_meta"],
    )  # fmt: skip
    return True


def _update_mappings(client: Elasticsearch, schema: Schema, kind: str) -> None:
    """Indices that are there learn the new fields."""
    mappings = schema.template(kind, lifecycle=False)["template"]["mappings"]
    if client.indices.exists(index=schema.pattern(kind), allow_no_indices=False):
        client.indices.put_mapping(index=schema.pattern(kind), properties=mappings["properties"], dynamic="strict")


def _create(client: Elasticsearch, schema: Schema, kind: str) -> None:
    if client.indices.exists_alias(name=schema.alias(kind)):
        return
    if client.indices.exists(index=schema.alias(kind)):
        raise ConfigError(
            f"elasticsearch_prefix: {schema.alias(kind)} is an index there, where we would have an alias of that name; "
            "choose another prefix, or remove the index"
        )
    create_index(client, schema.first_index(kind), aliases={schema.alias(kind): {}})
    if not client.indices.exists_alias(name=schema.alias(kind)):  # an index left without its alias
        client.indices.put_alias(index=schema.first_index(kind), name=schema.alias(kind))


def _try_rights(client: Elasticsearch, schema: Schema, where: str) -> None:
    """Reads, and deletes what is not there: a missing right shows now rather than at the first document."""
    for kind in KINDS:
        client.search(index=schema.alias(kind), size=0)
    answer = client.bulk(
        operations=[{"delete": {"_index": schema.alias(kind), "_id": "-", "require_alias": True}} for kind in KINDS]
    )
    for item in answer.body["items"]:
        error = item["delete"].get("error")
        if error and item["delete"]["status"] == 403:
            raise ConfigError(_missing_right(where, reason_of(error)))


@contextmanager
def _telling(where: str) -> Iterator[None]:
    """What the operator set wrongly becomes a `ConfigError` that names it."""
    try:
        yield
    except BackendError as error:
        told = _told(error.__cause__, where)
        if told:
            away = isinstance(error.__cause__, NoConnection | ConnectionTimeout) and not isinstance(
                error.__cause__, TlsError
            )
            raise (Unreachable if away else ConfigError)(told) from error
        raise


def _told(error: BaseException | None, where: str) -> str:
    match error:
        case UnsupportedProductError():
            return f"elasticsearch_url: what answers at {where} is not Elasticsearch; wanted Elasticsearch {_MAJOR}"
        case TlsError():
            return (
                f"elasticsearch_url: no TLS with {where}: {plain(error)}; check https or http, and set "
                "elasticsearch_ca to the file of the authority that signed its certificate"
            )
        case ConnectionTimeout():
            return f"elasticsearch_url: no answer from {where} in time; start it, or correct the address"
        case NoConnection():
            return f"elasticsearch_url: nothing answers at {where}: {plain(error)}; start it, or correct the address"
        case ApiError() if error.meta.status == 401:
            return (
                f"elasticsearch_user: Elasticsearch at {where} refuses the sign-in: {reason_of(error.body)}; check "
                "elasticsearch_user and elasticsearch_password, or elasticsearch_api_key"
            )
        case ApiError() if error.meta.status == 403:
            return _missing_right(where, reason_of(error.body))
        case ApiError() if error.meta.status in (400, 404, 405, 406, 415):
            return (
                f"elasticsearch_url: what answers at {where} does not work as Elasticsearch {_MAJOR} "
                f"({error.meta.status}): {reason_of(error.body)}"
            )
    return ""


def _missing_right(where: str, reason: str) -> str:
    return (
        f"elasticsearch_user: a right is missing at {where}: {reason}; grant the cluster rights monitor, "
        "manage_index_templates and manage_ilm, and the right all on indices that start with elasticsearch_prefix"
    )
