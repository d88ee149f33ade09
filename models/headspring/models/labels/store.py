"""Labels: every feedback once, to be listed and counted by verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from headspring.proto.action import Feedback
from headspring.proto.codec import decode, encode
from headspring.proto.relational.database import ALL_TENANTS, Database, Place, insert_new
from headspring.proto.relational.schema import Schema

_MAX_LIST = 10_000
_METADATA = sa.MetaData()
_LABELS = sa.Table(
    "labels",
    _METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("feedback_id", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("time_ns", sa.BigInteger, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Index("labels_subject", "tenant", "subject"),
    sa.Index("labels_time", "tenant", "time_ns"),
)
SCHEMA = Schema(name="labels", tables=_METADATA)


class LabelStore:
    """Feedback by id. Durable on return, idempotent by (tenant, feedback id), usable from several threads."""

    def __init__(self, place: Place) -> None:
        self._database = Database(place, SCHEMA)

    def put(self, labels: Sequence[Feedback]) -> int:
        """Adds what is new, all in one transaction; returns how many that were. The first of an id stays."""
        added = 0
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            for one in labels:
                added += insert_new(
                    connection, _LABELS,
                    {
                        "tenant": one.tenant, "feedback_id": one.feedback_id, "subject": one.subject,
                        "verdict": one.verdict, "time_ns": one.time_ns, "data": encode(one),
                    },
                )  # fmt: skip
        return added

    def list(
        self, tenant: str, *, subject: str = "", verdict: str = "", since_ns: int = 0, limit: int = 1_000
    ) -> Sequence[Feedback]:
        """Newest first; "" for any."""
        query = sa.select(_LABELS.c.data).where(_LABELS.c.tenant == tenant, _LABELS.c.time_ns >= since_ns)
        if subject:
            query = query.where(_LABELS.c.subject == subject)
        if verdict:
            query = query.where(_LABELS.c.verdict == verdict)
        query = query.order_by(_LABELS.c.time_ns.desc(), _LABELS.c.feedback_id.desc())
        with self._database.reading(tenant=tenant) as connection:
            found = connection.execute(query.limit(max(1, min(limit, _MAX_LIST)))).scalars().all()
        return [decode(Feedback, data) for data in found]

    def counts(self, tenant: str) -> Mapping[str, int]:
        """How many labels of each verdict."""
        query = (
            sa.select(_LABELS.c.verdict, sa.func.count())
            .where(_LABELS.c.tenant == tenant)
            .group_by(_LABELS.c.verdict)
            .order_by(_LABELS.c.verdict)
        )
        with self._database.reading(tenant=tenant) as connection:
            return {verdict: int(count) for verdict, count in connection.execute(query)}

    def close(self) -> None:
        self._database.close()
