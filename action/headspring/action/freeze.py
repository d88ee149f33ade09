"""The kill switch: a file when embedded, a row that every process sees within a second on PostgreSQL."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from headspring.proto.errors import Unavailable
from headspring.proto.relational.database import ALL_TENANTS, Database, Place, insert_new
from headspring.proto.relational.schema import Schema

logger = logging.getLogger(__name__)

_EVERY_S = 0.5
_tables = sa.MetaData()
_automation = sa.Table(
    "automation", _tables,
    sa.Column("one", sa.Integer, primary_key=True),
    sa.Column("frozen", sa.Boolean, nullable=False),
)  # fmt: skip
_SCHEMA = Schema(name="automation", tables=_tables)


class Freeze(Protocol):
    """While it is on, no step starts anywhere; it stays on over restarts."""

    @property
    def frozen(self) -> bool:
        """As last seen; costs nothing."""
        ...

    def now(self) -> bool:
        """Asked for anew, before an effect. May raise `Unavailable`."""
        ...

    def set(self, frozen: bool) -> None: ...

    def close(self) -> None: ...


class FileFreeze:
    """On while the file exists."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._frozen = file.exists()

    @property
    def frozen(self) -> bool:
        return self._frozen

    def now(self) -> bool:
        return self._frozen

    def set(self, frozen: bool) -> None:
        if frozen:
            self._file.touch()
        else:
            self._file.unlink(missing_ok=True)
        self._frozen = frozen

    def close(self) -> None:
        """Nothing is open."""


class RowFreeze:
    """A row, looked at by a thread."""

    def __init__(self, place: Place) -> None:
        self._database = Database(place, _SCHEMA)
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            insert_new(connection, _automation, {"one": 1, "frozen": False})
        self._frozen = self.now()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="freeze", daemon=True)
        self._thread.start()

    @property
    def frozen(self) -> bool:
        return self._frozen

    def now(self) -> bool:
        with self._database.reading(tenant=ALL_TENANTS) as connection:
            self._frozen = bool(connection.execute(sa.select(_automation.c.frozen)).scalar())
        return self._frozen

    def set(self, frozen: bool) -> None:
        with self._database.transaction(tenant=ALL_TENANTS) as connection:
            connection.execute(sa.update(_automation).values(frozen=frozen))
        self._frozen = frozen

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._database.close()

    def _watch(self) -> None:
        away = False
        while not self._closed.wait(_EVERY_S):
            try:
                self.now()
                away = False
            except Unavailable as error:
                if not away:
                    logger.warning("whether automation is frozen cannot be seen for now: %s", error)
                away = True
