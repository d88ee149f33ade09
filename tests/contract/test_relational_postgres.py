"""PostgreSQL as every store uses it: clear words at the start, tenants kept apart, outages named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from tests.servers.postgres import Postgres, postgres
from tests.servers.process import free_port

from headspring.proto.errors import BackendError, ConfigError, Conflict, PlatformError, Rejected, Unavailable
from headspring.proto.relational import postgres as adapter
from headspring.proto.relational.database import ALL_TENANTS, Database, Tenant, insert_new
from headspring.proto.relational.schema import Schema

pytestmark = pytest.mark.real

_TABLES = sa.MetaData()
_NOTES = sa.Table(
    "notes", _TABLES, sa.Column("note_id", sa.Text, primary_key=True), sa.Column("tenant", sa.Text, nullable=False)
)
_LINES = sa.Table(
    "lines", _TABLES, sa.Column("note_id", sa.Text, primary_key=True), sa.Column("line", sa.Integer, primary_key=True)
)
_SCHEMA = Schema(name="notes", tables=_TABLES, within={"lines": ("note_id", "notes")})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with postgres(tmp_path_factory.mktemp("postgres")) as started:
        yield started


@pytest.fixture
def database(server: Postgres) -> Iterator[Database]:
    opened = Database(server.database(), _SCHEMA)
    yield opened
    opened.close()


def _add(database: Database, note_id: str, tenant: str, *, scope: Tenant = ALL_TENANTS) -> None:
    with database.transaction(tenant=scope) as connection:
        connection.execute(sa.insert(_NOTES).values(note_id=note_id, tenant=tenant))
        connection.execute(sa.insert(_LINES).values(note_id=note_id, line=1))


@pytest.mark.parametrize(
    ("address", "words", "kind"),
    [
        (lambda server: server.address(password="wr0ng"), ("password authentication failed", "mend"), ConfigError),
        (lambda server: server.address(role="stranger"), ("password authentication failed", "is wrong"), ConfigError),
        (lambda server: server.address("missing"), ('database "missing" does not exist', "make it"), ConfigError),
        (
            lambda server: server.address().replace("127.0.0.1", "no-such-host.invalid"),
            ("no-such-host.invalid", "database address"),
            PlatformError,  # a machine without any name server says that it may know later
        ),
        (
            lambda server: server.address().replace(str(server.port), str(free_port())),
            ("Connection refused", "check the database address"),
            Unavailable,
        ),
        (lambda server: "postgresql://", ("check the database address",), Unavailable),
        (lambda server: server.address("postgres", role="postgres"), ("superuser", "CREATE ROLE"), ConfigError),
        (lambda server: "not an address", ("cannot be read", "postgresql://"), ConfigError),
        (
            lambda server: server.address().replace("+psycopg", "+nonsense"),
            ("nonsense", "headspring[distributed]"),
            ConfigError,
        ),
    ],
)
def test_what_keeps_it_from_starting_is_told_in_one_line_without_the_password(
    server: Postgres, address: Callable[[Postgres], str], words: tuple[str, ...], kind: type[PlatformError]
) -> None:
    with pytest.raises(kind) as caught:
        Database(address(server), _SCHEMA)
    text = str(caught.value)
    for part in words:
        assert part in text
    assert "\n" not in text
    assert server.password not in text
    assert "wr0ng" not in text


def test_an_old_server_is_refused(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.database()
    monkeypatch.setattr(adapter, "MIN_VERSION", 160_000)
    with pytest.raises(ConfigError, match="is version 15; wanted 16 or newer"):
        Database(url, _SCHEMA)


def test_a_role_that_may_not_make_tables_is_told_which_right_it_lacks(server: Postgres) -> None:
    url = server.database()
    name = url.rpartition("/")[2]
    server.execute(f"CREATE ROLE reader LOGIN PASSWORD '{server.password}'")
    with pytest.raises(ConfigError, match=f'GRANT CREATE ON DATABASE "{name}" TO "reader"'):
        Database(server.address(name, role="reader"), _SCHEMA)


def test_tables_of_a_newer_program_are_refused_and_older_ones_are_upgraded(server: Postgres) -> None:
    url = server.database()
    first = Database(url, _SCHEMA)
    _add(first, "n1", "a")
    newer = Schema(
        name="notes", version=3, tables=_TABLES, within=_SCHEMA.within,
        upgrades={1: ["ALTER TABLE notes ADD COLUMN text text"], 2: ["UPDATE notes SET text = 'old' WHERE true"]},
    )  # fmt: skip
    upgraded = Database(url, newer)
    with upgraded.reading(tenant="a") as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM notes WHERE text IS NULL").scalar() == 1
    with pytest.raises(ConfigError, match="of notes have version 3, this program knows 1; start a newer Headspring"):
        Database(url, _SCHEMA)
    first.close()
    upgraded.close()


def test_many_that_start_at_once_make_the_tables_once(server: Postgres) -> None:
    url = server.database()
    # Engines of their own, as processes have them: the options differ, so no pool is shared.
    addresses = [f"{url}?options=-c%20application_name%3Dp{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda address: Database(address, _SCHEMA), addresses))
    _add(opened[0], "n1", "a")
    with opened[7].reading(tenant="a") as connection:
        assert connection.execute(sa.select(_NOTES.c.note_id)).scalars().all() == ["n1"]
    for one in opened:
        one.close()


def test_a_query_without_its_tenant_filter_sees_no_other_tenant(database: Database) -> None:
    _add(database, "n1", "a")
    _add(database, "n2", "b", scope="b")
    for scope, seen in (("a", ["n1"]), ("b", ["n2"]), ("c", []), ("all", []), (ALL_TENANTS, ["n1", "n2"])):
        with database.reading(tenant=scope) as connection:
            for table in (_NOTES, _LINES):
                query = sa.select(table.c.note_id).order_by(table.c.note_id)
                assert connection.execute(query).scalars().all() == seen


def test_a_tenant_cannot_write_or_change_what_is_anothers(database: Database) -> None:
    _add(database, "n1", "a")
    with pytest.raises(PlatformError, match="row-level security"):
        _add(database, "n2", "a", scope="b")
    with pytest.raises(PlatformError, match="row-level security"), database.transaction(tenant="b") as connection:
        connection.execute(sa.insert(_LINES).values(note_id="n1", line=2))
    with database.transaction(tenant="b") as connection:
        assert connection.execute(sa.update(_NOTES).values(tenant="b")).rowcount == 0
        assert connection.execute(sa.delete(_LINES)).rowcount == 0
    with database.reading(tenant="a") as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(_LINES)).scalar() == 1


def test_a_connection_of_the_pool_keeps_no_scope(database: Database) -> None:
    _add(database, "n1", "a")
    for _ in range(3):
        with database.reading(tenant="a") as connection:
            assert connection.execute(sa.select(_NOTES)).first() is not None
        with database._engine.begin() as plain:
            assert plain.execute(sa.select(_NOTES)).first() is None


def test_a_taken_key_is_a_conflict_or_nothing(database: Database) -> None:
    _add(database, "n1", "a")
    with pytest.raises(Conflict):
        _add(database, "n1", "a")
    with database.transaction(tenant="a") as connection:
        assert insert_new(connection, _NOTES, {"note_id": "n1", "tenant": "a"}) is False
        assert insert_new(connection, _NOTES, {"note_id": "n2", "tenant": "a"}) is True


def test_what_can_never_be_stored_is_rejected(database: Database) -> None:
    with pytest.raises((Rejected, BackendError)) as caught:
        _add(database, "a\x00b", "a")
    assert not isinstance(caught.value, Unavailable)


def test_locks_of_the_same_words_exclude_each_other(database: Database) -> None:
    inside, order = threading.Event(), list[str]()

    def second() -> None:
        inside.wait(5)
        with database.transaction(tenant="a") as connection:
            database.lock(connection, "x", "1")
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with database.transaction(tenant="a") as connection:
        database.lock(connection, "x", "1")
        inside.set()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_an_outage_is_unavailable_and_what_comes_after_it_works(server: Postgres, database: Database) -> None:
    _add(database, "n1", "a")
    for end in (server.stop, server.kill9):
        end()
        started_s = time.monotonic()
        with pytest.raises(Unavailable), database.reading(tenant="a") as connection:
            connection.execute(sa.select(_NOTES))
        assert time.monotonic() - started_s < 6
        server.start()
        with database.reading(tenant="a") as connection:
            assert connection.execute(sa.select(_NOTES.c.note_id)).scalars().all() == ["n1"]


def _within(database: Database, *steps: Callable[[sa.Connection], object]) -> None:
    """The steps, one after the other, in a transaction that must fail as unavailable."""

    def run() -> None:
        with database.transaction(tenant="a") as connection:
            for step in steps:
                step(connection)

    with pytest.raises(Unavailable):
        run()


def test_a_transaction_that_is_cut_off_in_the_middle_is_unavailable(server: Postgres, database: Database) -> None:
    _within(
        database,
        lambda connection: connection.execute(sa.insert(_NOTES).values(note_id="n9", tenant="a")),
        lambda _: server.kill9(),
        lambda _: server.start(),
        lambda connection: connection.execute(sa.insert(_NOTES).values(note_id="n10", tenant="a")),
    )
    with database.reading(tenant=ALL_TENANTS) as connection:
        assert connection.execute(sa.select(_NOTES)).all() == []


def test_a_statement_that_takes_too_long_is_ended(database: Database) -> None:
    started_s = time.monotonic()
    _within(
        database,
        lambda connection: connection.exec_driver_sql("SET LOCAL statement_timeout = '100ms'"),
        lambda connection: connection.exec_driver_sql("SELECT pg_sleep(5)"),
    )
    assert time.monotonic() - started_s < 3


def test_who_stops_inside_a_transaction_loses_its_locks(database: Database) -> None:
    def take(connection: sa.Connection) -> None:
        database.lock(connection, "held")

    def take_elsewhere(_: sa.Connection) -> None:
        with database.transaction(tenant="a") as other:
            take(other)  # would wait for `lock_timeout` otherwise, and fail
        taken.append(True)

    taken: list[bool] = []
    _within(
        database,
        lambda connection: connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '200ms'"),
        take,
        lambda _: time.sleep(0.6),
        take_elsewhere,
        lambda connection: connection.execute(sa.select(_NOTES)),
    )
    assert taken
