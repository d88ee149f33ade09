"""The contract of the store of keys; `tests/contract` binds it to SQLite and to PostgreSQL."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from headspring.gateway.auth.keys import SESSION_S, KeyStore, Role
from headspring.proto.clock import ManualClock
from headspring.proto.errors import ConfigError, NotFound, Unauthenticated

OpenKeys = Callable[[ManualClock], KeyStore]


class KeyStoreContract:
    """Subclass it and give it an `open_keys` fixture: the same keys each time, as another process would see them."""

    @pytest.fixture
    def open_keys(self) -> OpenKeys:
        raise NotImplementedError("the binding gives a fixture open_keys")

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(start_ns=1_700_000_000 * 10**9)

    @pytest.fixture
    def keys(self, open_keys: OpenKeys, clock: ManualClock) -> KeyStore:
        return open_keys(clock)

    def test_the_first_start_makes_an_admin_key_that_every_process_knows(
        self, keys: KeyStore, open_keys: OpenKeys, clock: ManualClock
    ) -> None:
        key = keys.bootstrap()
        other = open_keys(clock)
        assert other.bootstrap() == ""
        assert other.principal(key).role is Role.ADMIN

    def test_of_many_first_starts_at_once_one_makes_the_key(self, open_keys: OpenKeys, clock: ManualClock) -> None:
        stores = [open_keys(clock) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            made = [key for key in pool.map(lambda store: store.bootstrap(), stores) if key]
        assert len(made) == 1
        assert [one.name for one in stores[0].list()] == ["admin"]

    def test_a_given_first_key_replaces_the_one_given_before(
        self, keys: KeyStore, open_keys: OpenKeys, clock: ManualClock
    ) -> None:
        with pytest.raises(ConfigError, match="at least 16"):
            keys.bootstrap("short")
        first, second = "a-first-key-of-enough-length", "a-second-key-of-enough-length"
        for given in (first, first, second):
            assert keys.bootstrap(given) == ""
        other = open_keys(clock)
        assert other.principal(second).name == "bootstrap"
        with pytest.raises(Unauthenticated):
            other.principal(first)

    def test_a_key_is_known_by_its_tenant_and_role(self, keys: KeyStore) -> None:
        key = keys.create("reader", Role.VIEWER, "acme")
        found = keys.principal(key)
        assert (found.name, found.role, found.tenant) == ("reader", Role.VIEWER, "acme")
        with pytest.raises(Unauthenticated):
            keys.principal(key + "x")

    def test_a_new_key_of_a_name_replaces_the_old_one_and_its_sessions(self, keys: KeyStore) -> None:
        old = keys.create("reader", Role.VIEWER)
        session = keys.open_session(old)
        new = keys.create("reader", Role.OPERATOR)
        with pytest.raises(Unauthenticated):
            keys.principal(old)
        with pytest.raises(Unauthenticated):
            keys.session(session)
        assert keys.principal(new).role is Role.OPERATOR

    def test_a_key_that_another_process_revoked_stops_working_within_seconds(
        self, keys: KeyStore, open_keys: OpenKeys, clock: ManualClock
    ) -> None:
        key = keys.create("reader", Role.VIEWER)
        keys.principal(key)
        open_keys(clock).revoke("reader")
        clock.advance(6)
        with pytest.raises(Unauthenticated):
            keys.principal(key)
        with pytest.raises(NotFound):
            keys.revoke("reader")

    def test_a_session_is_known_to_every_process_until_it_ends(
        self, keys: KeyStore, open_keys: OpenKeys, clock: ManualClock
    ) -> None:
        key = keys.create("reader", Role.VIEWER)
        token, closed = keys.open_session(key), keys.open_session(key)
        other = open_keys(clock)
        assert other.session(token).csrf
        other.close_session(closed)
        with pytest.raises(Unauthenticated):
            keys.session(closed)
        clock.advance(SESSION_S + 1)
        with pytest.raises(Unauthenticated):
            other.session(token)
