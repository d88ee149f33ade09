"""Where the end of the audit chain is signed: a file beside a SQLite file, a row of its own on PostgreSQL."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from headspring.proto.errors import ConfigError
from headspring.proto.relational.database import insert_new

End = tuple[int, str]
"""Number and hash of the last entry."""
HEADS = sa.MetaData()
_HEAD = sa.Table(
    "audit_head", HEADS,
    sa.Column("one", sa.Integer, primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("signature", sa.Text, nullable=False),
    sa.Column("key_check", sa.Text, nullable=False),
)  # fmt: skip


class Head(Protocol):
    """The signed end of the chain."""

    def read(self, connection: sa.Connection, *, to_write: bool = False) -> End | str | None:
        """The signed end; None where there is none; else what is wrong with it.

        Args:
            to_write: until the transaction ends, nobody else may write.
        """
        ...

    def write(self, connection: sa.Connection, end: End) -> None:
        """The next end, which counts once the transaction is committed."""
        ...

    def committed(self, end: End) -> None:
        """The transaction of `write` is committed."""
        ...

    def seen(self) -> End | str | None:
        """The furthest end that this process has seen signed, where that is known apart from `read`."""
        ...


class Signer:
    """Signs and checks ends with the key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, number: str, digest: str) -> str:
        return self._mac(f"headspring-audit-head:{number}:{digest}")

    def check(self) -> str:
        """What tells this key from another one."""
        return self._mac("headspring-audit-key")

    def read(self, path: Path) -> End | str | None:
        """The end in a file; None where there is no file; else what is wrong with it."""
        try:
            parts = path.read_text("ascii").split("\n")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            return f"the signed head cannot be read: {error}"
        if len(parts) != 4 or not parts[0].isdigit() or len(parts[0]) > 19:
            return "the signed head is damaged"
        return self.verified(parts[0], parts[1], parts[2])

    def verified(self, number: str, digest: str, signature: str) -> End | str:
        if not hmac.compare_digest(signature.encode(), self.sign(number, digest).encode()):
            return "the signature of the head is wrong"
        return int(number), digest

    def write(self, path: Path, end: End, *, durable: bool) -> None:
        number, digest = str(end[0]), end[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="ascii") as file:
            file.write(f"{number}\n{digest}\n{self.sign(number, digest)}\n")
            if durable:
                file.flush()
                os.fsync(file.fileno())

    def _mac(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


class FileHead:
    """A file: the draft beside it is signed before the entry is committed, and renamed afterwards."""

    def __init__(self, file: Path, signer: Signer, last: End, *, new: bool) -> None:
        """`last` is the end of the record as it is found."""
        self._file = file
        self._draft = file.with_name(file.name + ".new")
        self._signer = signer
        if new:
            self._signer.write(self._draft, (0, ""), durable=True)
            self._draft.replace(file)
        elif signer.read(file) != last and signer.read(self._draft) == last:
            # A crash between commit and rename: the draft was signed by us before the entry was committed.
            self._draft.replace(file)

    def read(self, connection: sa.Connection, *, to_write: bool = False) -> End | str | None:
        return self._signer.read(self._file)

    def write(self, connection: sa.Connection, end: End) -> None:
        self._signer.write(self._draft, end, durable=True)

    def committed(self, end: End) -> None:
        self._draft.replace(self._file)

    def seen(self) -> End | str | None:
        return None


class RowHead:
    """A row that every append locks, and a file in which each process keeps the last end it saw.

    Whoever can write the database could put an old head back together with the shorter record that it signed; the
    file of any process that had seen more says so.
    """

    def __init__(
        self, connection: sa.Connection, signer: Signer, witness: Path, *, new: bool, key_file: Path, where: str
    ) -> None:
        """
        Raises:
            ConfigError: another process signed with another key.
        """
        self._signer = signer
        self._witness = witness
        if new and signer.read(witness) is None:
            values = {"one": 1, "number": 0, "hash": "", "signature": signer.sign("0", ""), "key_check": signer.check()}
            insert_new(connection, _HEAD, values)
        check = connection.execute(sa.select(_HEAD.c.key_check)).scalar()
        if check is not None and not hmac.compare_digest(check.encode(), signer.check().encode()):
            raise ConfigError(
                f"{key_file} is not the key that signs the audit log of {where}; give every process the same folder "
                "of secrets"
            )

    def read(self, connection: sa.Connection, *, to_write: bool = False) -> End | str | None:
        query = sa.select(_HEAD.c.number, _HEAD.c.hash, _HEAD.c.signature)
        row = connection.execute(query.with_for_update() if to_write else query).first()
        return None if row is None else self._signer.verified(str(row.number), row.hash, row.signature)

    def write(self, connection: sa.Connection, end: End) -> None:
        signature = self._signer.sign(str(end[0]), end[1])
        connection.execute(sa.update(_HEAD).values(number=end[0], hash=end[1], signature=signature))

    def committed(self, end: End) -> None:
        seen = self._signer.read(self._witness)
        if isinstance(seen, tuple) and seen[0] >= end[0]:
            return
        draft = self._witness.with_name(f"{self._witness.name}.{os.getpid()}")
        try:
            self._signer.write(draft, end, durable=False)
            draft.replace(self._witness)
        except OSError:
            return  # the entry is committed; a witness that lags sees less, and says nothing wrong

    def seen(self) -> End | str | None:
        return self._signer.read(self._witness)
