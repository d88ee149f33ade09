"""Keys on PostgreSQL keep the contract of their store, and known ones are taken while the database is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.servers.postgres import Postgres, postgres

from headspring.gateway.auth.keys import KeyStore, Role
from headspring.gateway.auth.testing import KeyStoreContract, OpenKeys
from headspring.proto.clock import ManualClock
from headspring.proto.errors import ConfigError, Unauthenticated, Unavailable

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with postgres(tmp_path_factory.mktemp("postgres")) as started:
        yield started


class TestPostgresKeys(KeyStoreContract):
    @pytest.fixture
    def open_keys(self, server: Postgres, tmp_path: Path) -> Iterator[OpenKeys]:
        url, opened = server.database(), list[KeyStore]()

        def open_one(clock: ManualClock) -> KeyStore:
            opened.append(KeyStore(url, clock=clock, secrets=tmp_path))
            return opened[-1]

        yield open_one
        for store in opened:
            store.close()

    def test_a_query_without_its_tenant_filter_sees_no_other_tenant(self, keys: KeyStore) -> None:
        for tenant in ("a", "b"):
            keys.open_session(keys.create(f"of {tenant}", Role.VIEWER, tenant))
        for table, count in (("api_keys", 1), ("sessions", 1)):
            with keys._database.reading(tenant="a") as connection:
                assert len(connection.execute(sa.text(f"SELECT * FROM {table}")).all()) == count

    def test_a_known_key_is_taken_while_the_database_is_away(
        self, server: Postgres, keys: KeyStore, clock: ManualClock
    ) -> None:
        known, new = keys.create("known", Role.INGEST), keys.create("new", Role.INGEST)
        keys.principal(known)
        server.stop()
        try:
            clock.advance(600)
            assert keys.principal(known).name == "known"
            with pytest.raises(Unavailable):
                keys.principal(new)
            clock.advance(600)
            with pytest.raises(Unavailable):
                keys.principal(known)
        finally:
            server.start()
        clock.advance(6)
        assert keys.principal(new).name == "new"
        keys.revoke("known")
        with pytest.raises(Unauthenticated):
            keys.principal(known)


def test_a_process_with_another_pepper_or_no_folder_for_it_does_not_start(server: Postgres, tmp_path: Path) -> None:
    url, clock = server.database(), ManualClock()
    with pytest.raises(ConfigError, match="folder of secrets"):
        KeyStore(url, clock=clock)
    KeyStore(url, clock=clock, secrets=tmp_path).close()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ConfigError, match="is not the pepper of the keys in PostgreSQL") as caught:
        KeyStore(url, clock=clock, secrets=other)
    assert server.password not in str(caught.value)
