"""The registry in relational rows: SQLite embedded, PostgreSQL by URL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from headspring.models.database import Rows
from headspring.models.registry.port import CANDIDATE, CHAMPION, EXCLUSIVE, RETIRED, TRANSITIONS, Publish
from headspring.proto.action import ModelVersion
from headspring.proto.errors import Conflict, NotFound, Rejected

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


class SqlModelRegistry:
    """`ModelRegistry` (see the port for the contract)."""

    def __init__(self, where: Path | str, *, publish: Publish) -> None:
        """`where`: a file for SQLite, or a SQLAlchemy URL. Publishes what a crash left over."""
        self._rows = Rows(where, _METADATA)
        self._publish = publish
        self.publish_pending()

    def add(
        self, tenant: str, model_id: str, *, artifact_digest: str, created_ns: int, metadata: Mapping[str, str]
    ) -> ModelVersion:
        with self._rows.transaction() as connection:
            self._lock(connection, tenant, model_id)
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
        with self._rows.transaction() as connection:
            self._lock(connection, tenant, model_id)
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
        found = self._select(sa.and_(_of(tenant, model_id), _C.version == version))
        return found[0] if found else None

    def current(self, tenant: str, model_id: str, stage: str = CHAMPION) -> ModelVersion | None:
        found = self._select(sa.and_(_of(tenant, model_id), _C.stage == stage))
        return found[0] if found else None

    def versions(self, tenant: str, model_id: str = "") -> Sequence[ModelVersion]:
        return self._select(_of(tenant, model_id) if model_id else _C.tenant == tenant)

    def publish_pending(self) -> int:
        pending = self._select(_C.published.is_(False))
        # Retired ones first: a reader that follows the topic never sees two champions.
        for one in sorted(pending, key=lambda version: version.stage != RETIRED):
            self._publish(one)
            with self._rows.transaction() as connection:
                # Only if it is still what was published; a move in between publishes again.
                connection.execute(
                    _VERSIONS.update()
                    .where(_of(one.tenant, one.model_id), _C.version == one.version, _C.stage == one.stage)
                    .values(published=True)
                )
        return len(pending)

    def close(self) -> None:
        self._rows.close()

    def _select(self, condition: sa.ColumnElement[bool]) -> list[ModelVersion]:
        query = sa.select(_VERSIONS).where(condition).order_by(_C.tenant, _C.model_id, _C.version.desc())
        with self._rows.transaction() as connection:
            return [_version(row) for row in connection.execute(query).mappings()]

    def _lock(self, connection: sa.Connection, tenant: str, model_id: str) -> None:
        """One writer per model at a time, from the first read on."""
        if self._rows.dialect == "sqlite":
            # A write takes SQLite's lock; without it two readers could both count the same next version.
            connection.execute(_VERSIONS.update().where(sa.false()).values(published=False))
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"{tenant}/{model_id}"))))


def _of(tenant: str, model_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(_C.tenant == tenant, _C.model_id == model_id)


def _version(row: Mapping[Any, Any]) -> ModelVersion:  # a SQLAlchemy row mapping has untyped keys and values
    return ModelVersion(
        tenant=row["tenant"], model_id=row["model_id"], version=row["version"], stage=row["stage"],
        artifact_digest=row["artifact_digest"], created_ns=row["created_ns"], metadata=json.loads(row["metadata"]),
    )  # fmt: skip
