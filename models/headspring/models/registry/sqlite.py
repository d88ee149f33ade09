"""The registry in relational rows: SQLite embedded, PostgreSQL by URL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from headspring.models.registry.port import CANDIDATE, CHAMPION, EXCLUSIVE, RETIRED, TRANSITIONS, Publish
from headspring.proto.action import ModelVersion
from headspring.proto.errors import Conflict, NotFound, Rejected
from headspring.proto.relational.database import ALL_TENANTS, Database, Place, Tenant
from headspring.proto.relational.schema import Schema

_METADATA = sa.MetaData()
_VERSIONS = sa.Table(
    "model_versions",
    _METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("model_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("artifact_digest", sa.Text, nullable=False),
    sa.Column("created_ns", sa.BigInteger, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("published", sa.Boolean, nullable=False),
)
_C = _VERSIONS.c
SCHEMA = Schema(name="models", tables=_METADATA)


class SqlModelRegistry:
    """`ModelRegistry` (see the port for the contract)."""

    def __init__(self, place: Place, *, publish: Publish) -> None:
        """Publishes what a crash left over."""
        self._database = Database(place, SCHEMA)
        self._publish = publish
        self.publish_pending()

    def add(
        self, tenant: str, model_id: str, *, artifact_digest: str, created_ns: int, metadata: Mapping[str, str]
    ) -> ModelVersion:
        with self._database.transaction(tenant=tenant) as connection:
            self._database.lock(connection, "model", tenant, model_id)
            newest = connection.execute(sa.select(sa.func.max(_C.version)).where(_of(tenant, model_id))).scalar()
            version = int(newest or 0) + 1
            connection.execute(
                _VERSIONS.insert().values(
                    tenant=tenant, model_id=model_id, version=version, stage=CANDIDATE,
                    artifact_digest=artifact_digest, created_ns=created_ns,
                    metadata=json.dumps(dict(metadata), sort_keys=True), published=False,
                )
            )  # fmt: skip
        self.publish_pending()
        return ModelVersion(
            tenant=tenant, model_id=model_id, version=version, stage=CANDIDATE, artifact_digest=artifact_digest,
            created_ns=created_ns, metadata=dict(metadata),
        )  # fmt: skip

    def move(self, tenant: str, model_id: str, version: int, stage: str, *, expected: str = "") -> ModelVersion:
        with self._database.transaction(tenant=tenant) as connection:
            self._database.lock(connection, "model", tenant, model_id)
            here = sa.and_(_of(tenant, model_id), _C.version == version)
            row = connection.execute(sa.select(_VERSIONS).where(here)).mappings().first()
            if row is None:
                raise NotFound(f"model {model_id} has no version {version}")
            if expected and row["stage"] != expected:
                raise Conflict(f"model {model_id} version {version} is {row['stage']}, expected {expected}")
            if stage != row["stage"]:
                if stage not in TRANSITIONS.get(row["stage"], ()):
                    allowed = ", ".join(TRANSITIONS.get(row["stage"], ()))
                    raise Rejected(
                        f"model {model_id} version {version} cannot go from {row['stage']} to {stage}; it can go to "
                        f"{allowed}"
                    )
                if stage in EXCLUSIVE:
                    connection.execute(
                        _VERSIONS.update()
                        .where(_of(tenant, model_id), _C.stage == stage)
                        .values(stage=RETIRED, published=False)
                    )
                connection.execute(_VERSIONS.update().where(here).values(stage=stage, published=False))
            moved = _version({**row, "stage": stage})
        self.publish_pending()
        return moved

    def get(self, tenant: str, model_id: str, version: int) -> ModelVersion | None:
        found = self._select(tenant, sa.and_(_of(tenant, model_id), _C.version == version))
        return found[0] if found else None

    def current(self, tenant: str, model_id: str, stage: str = CHAMPION) -> ModelVersion | None:
        found = self._select(tenant, sa.and_(_of(tenant, model_id), _C.stage == stage))
        return found[0] if found else None

    def versions(self, tenant: str, model_id: str = "") -> Sequence[ModelVersion]:
        return self._select(tenant, _of(tenant, model_id) if model_id else _C.tenant == tenant)

    def publish_pending(self) -> int:
        pending = self._select(ALL_TENANTS, _C.published.is_(False))
        # Retired ones first: a reader that follows the topic never sees two champions.
        return sum(self._publish_one(one) for one in sorted(pending, key=lambda version: version.stage != RETIRED))

    def close(self) -> None:
        self._database.close()

    def _publish_one(self, one: ModelVersion) -> bool:
        """Hands a version over as it is now; False when somebody else did so since.

        Nothing moves the model meanwhile: what is newest on the topic must be what is newest here, whoever publishes.
        """
        here = sa.and_(_of(one.tenant, one.model_id), _C.version == one.version, _C.published.is_(False))
        with self._database.transaction(tenant=one.tenant) as connection:
            self._database.lock(connection, "model", one.tenant, one.model_id)
            row = connection.execute(sa.select(_VERSIONS).where(here)).mappings().first()
            if row is None:
                return False
            self._publish(_version(row))
            connection.execute(_VERSIONS.update().where(here).values(published=True))
        return True

    def _select(self, tenant: Tenant, condition: sa.ColumnElement[bool]) -> list[ModelVersion]:
        query = sa.select(_VERSIONS).where(condition).order_by(_C.tenant, _C.model_id, _C.version.desc())
        with self._database.reading(tenant=tenant) as connection:
            return [_version(row) for row in connection.execute(query).mappings()]


def _of(tenant: str, model_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(_C.tenant == tenant, _C.model_id == model_id)


def _version(row: Mapping[Any, Any]) -> ModelVersion:  # a SQLAlchemy row mapping has untyped keys and values
    return ModelVersion(
        tenant=row["tenant"], model_id=row["model_id"], version=row["version"], stage=row["stage"],
        artifact_digest=row["artifact_digest"], created_ns=row["created_ns"], metadata=json.loads(row["metadata"]),
    )  # fmt: skip
