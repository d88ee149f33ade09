"""Runs, leases and the audit log on PostgreSQL keep the contract of their stores, among several processes too."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.servers.postgres import Postgres, postgres

from headspring.action.audit.chain import AuditLog, Verdict
from headspring.action.freeze import RowFreeze
from headspring.action.leases import TOLD_NS, Fenced, Leases
from headspring.action.notify.dispatch import Delivery, Dispatcher
from headspring.action.notify.port import Notification
from headspring.action.notify.sent import Claim, SentMessages
from headspring.action.store import RunStore
from headspring.action.testing import AuditLogContract, RunStoreContract
from headspring.action.testing.audit import OpenAudit, Tamper, filled
from headspring.action.testing.runs import OpenStore, decision, event, plan
from headspring.proto.action import RunState
from headspring.proto.errors import ConfigError, Conflict, Rejected, Unavailable
from headspring.proto.relational.database import ALL_TENANTS

pytestmark = pytest.mark.real
ACTIVE = [RunState.APPROVED.value, RunState.EXECUTING.value]
LATER_NS = 10_000 + TOLD_NS
"""A moment at which an approval of some µs is not waited for any more."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with postgres(tmp_path_factory.mktemp("postgres")) as started:
        yield started


@pytest.fixture
def url(server: Postgres) -> str:
    return server.database()


@pytest.fixture
def closing() -> Iterator[list[Callable[[], None]]]:
    """What to close at the end."""
    found: list[Callable[[], None]] = []
    yield found
    for close in found:
        close()


@pytest.fixture
def open_store(url: str, closing: list[Callable[[], None]]) -> OpenStore:
    def open_one() -> RunStore:
        store = RunStore(url)
        closing.append(store.close)
        return store

    return open_one


@pytest.fixture
def open_audit(url: str, tmp_path: Path, closing: list[Callable[[], None]]) -> OpenAudit:
    def open_one() -> AuditLog:
        log = AuditLog(url, tmp_path / "audit.key", tmp_path / "audit.head")
        closing.append(log.close)
        return log

    return open_one


class TestPostgresRuns(RunStoreContract):
    @pytest.fixture
    def open_store(self, open_store: OpenStore) -> OpenStore:
        return open_store

    def test_a_query_without_its_tenant_filter_sees_no_other_tenant(self, open_store: OpenStore) -> None:
        store = open_store()
        for tenant in ("a", "b"):
            store.add(f"run-{tenant}", plan(tenant=tenant))
            store.add_event(event(ord(tenant), run_id=f"run-{tenant}", tenant=tenant))
            store.decide(f"run-{tenant}", decision("ann"))
            store.begin_step(f"run-{tenant}", "s1", 5)
        for table in ("runs", "events", "decisions", "steps"):
            for tenant, seen in (("a", ["run-a"]), ("b", ["run-b"]), ("c", [])):
                with store.database.reading(tenant=tenant) as connection:
                    rows = connection.execute(sa.text(f"SELECT run_id FROM {table}")).scalars().all()
                assert rows == seen, f"{tenant} in {table}"


class TestPostgresAudit(AuditLogContract):
    @pytest.fixture
    def open_audit(self, open_audit: OpenAudit) -> OpenAudit:
        return open_audit

    @pytest.fixture
    def tamper(self, server: Postgres, url: str) -> Tamper:
        return lambda statement: server.execute(f"SET search_path = headspring; {statement}", database=_name(url))

    def test_processes_that_append_together_make_one_chain(self, url: str, tmp_path: Path) -> None:
        logs = [AuditLog(url, tmp_path / "audit.key", tmp_path / f"head-{number}") for number in range(4)]
        with ThreadPoolExecutor(8) as pool:
            for number in range(80):
                pool.submit(logs[number % 4].append, "a", "b", "c", {}, number, f"t{number % 2}")
        assert [log.verify() for log in logs] == [Verdict(ok=True, checked=80)] * 4
        with logs[0]._database.reading(tenant="t0") as connection:
            tenants = connection.execute(sa.text("SELECT DISTINCT tenant FROM audit")).scalars().all()
        assert tenants == ["t0"]
        for log in logs:
            log.close()

    def test_a_shorter_record_with_the_head_it_had_then_is_found_by_who_saw_more(
        self, open_audit: OpenAudit, tamper: Tamper, tmp_path: Path
    ) -> None:
        log = filled(open_audit(), 9)
        tamper("CREATE TABLE kept AS SELECT * FROM audit_head")
        filled(log, 3)
        tamper("DELETE FROM audit WHERE number > 9")
        tamper("DELETE FROM audit_head")
        tamper("INSERT INTO audit_head SELECT * FROM kept")
        verdict = log.verify()
        assert (verdict.ok, verdict.first_bad) == (False, 10)
        assert "entry 12, which this process saw signed, is missing" in verdict.reason

    def test_a_head_that_is_gone_or_forged_is_found(self, open_audit: OpenAudit, tamper: Tamper) -> None:
        log = filled(open_audit(), 3)
        tamper("UPDATE audit_head SET number = 2")
        assert log.verify().reason == "the signature of the head is wrong"
        tamper("DELETE FROM audit_head")
        assert log.verify().reason == "the signed head is missing"
        with pytest.raises(Rejected, match="signed head"):
            log.append("a", "b", "c", {}, 1)
        assert open_audit().verify().reason == "the signed head is missing"

    def test_everything_deleted_is_not_taken_for_a_new_record(self, open_audit: OpenAudit, tamper: Tamper) -> None:
        filled(open_audit(), 3)
        tamper("DELETE FROM audit")
        tamper("DELETE FROM audit_head")
        assert not open_audit().verify().ok

    def test_a_process_with_another_key_or_none_does_not_start(
        self, url: str, tmp_path: Path, open_audit: OpenAudit
    ) -> None:
        filled(open_audit(), 1)
        other = tmp_path / "other"
        other.mkdir()
        with pytest.raises(ConfigError, match=r"audit\.key is missing"):
            AuditLog(url, other / "audit.key", other / "audit.head")
        (other / "audit.key").write_text("ab" * 32)
        with pytest.raises(ConfigError, match="is not the key that signs the audit log of PostgreSQL"):
            AuditLog(url, other / "audit.key", other / "audit.head")
        shutil.copy(tmp_path / "audit.key", other / "audit.key")
        AuditLog(url, other / "audit.key", other / "audit.head").close()


class TestLeases:
    @pytest.fixture
    def store(self, open_store: OpenStore) -> RunStore:
        store = open_store()
        for number in range(3):
            store.add(f"run-{number}", plan(target=f"service:default/{number}"))
            store.decide(f"run-{number}", decision("ann", time_ns=2_000 + number))
        return store

    @pytest.fixture
    def open_leases(self, url: str, store: RunStore, closing: list[Callable[[], None]]) -> Callable[..., Leases]:
        def open_one(owner: str, seconds: float = 30.0) -> Leases:
            leases = Leases(url, owner=owner, seconds=seconds)
            closing.append(leases.close)
            return leases

        return open_one

    def test_a_run_is_one_owners_oldest_first(self, open_leases: Callable[..., Leases]) -> None:
        one, two = open_leases("one"), open_leases("two")
        first = one.take_runs(ACTIVE, most=2, now_ns=LATER_NS)
        assert [(lease.name, lease.token) for lease in first] == [("run-0", 1), ("run-1", 1)]
        assert [lease.name for lease in two.take_runs(ACTIVE, most=9, now_ns=LATER_NS)] == ["run-2"]
        assert one.take_runs(ACTIVE, most=9, now_ns=LATER_NS) == []

    def test_many_that_take_at_once_take_each_run_once(
        self, open_leases: Callable[..., Leases], store: RunStore
    ) -> None:
        for number in range(3, 40):
            store.add(f"run-{number}", plan(target=f"service:default/{number}"))
            store.decide(f"run-{number}", decision("ann"))
        owners = [open_leases(f"owner-{number}") for number in range(6)]
        ready = threading.Barrier(6)

        def take(leases: Leases) -> list[str]:
            ready.wait()
            return [lease.name for _ in range(9) for lease in leases.take_runs(ACTIVE, most=3, now_ns=LATER_NS)]

        with ThreadPoolExecutor(6) as pool:
            taken = [name for names in pool.map(take, owners) for name in names]
        assert sorted(taken) == sorted(f"run-{number}" for number in range(40))

    def test_an_approval_that_is_not_told_yet_is_waited_for(
        self, open_leases: Callable[..., Leases], store: RunStore
    ) -> None:
        leases = open_leases("one")
        store.add_event(event(1, run_id="run-1", time_ns=2_001))
        assert [lease.name for lease in leases.take_runs(ACTIVE, most=9, now_ns=2_500)] == ["run-1"]
        taken = leases.take_runs(ACTIVE, most=9, now_ns=LATER_NS)
        assert [lease.name for lease in taken] == ["run-0", "run-2"]

    def test_a_lease_that_is_renewed_holds_and_one_that_is_not_goes_to_another_with_a_higher_token(
        self, open_leases: Callable[..., Leases], store: RunStore
    ) -> None:
        one, two = open_leases("one", 0.5), open_leases("two")
        kept, left = one.take_runs(ACTIVE, most=2, now_ns=LATER_NS)
        for _ in range(4):
            time.sleep(0.2)
            assert one.renew([kept]) == []
        kept.check()
        with pytest.raises(Fenced, match="not renewed in time"):
            left.check()
        taken = {lease.name: lease.token for lease in two.take_runs(ACTIVE, most=9, now_ns=LATER_NS)}
        assert taken == {"run-1": 2, "run-2": 1}
        assert one.renew([kept, left]) == [left]
        with pytest.raises(Fenced, match="taken over"):
            left.check()
        # Nothing that the one who was cut off writes about the run counts any more.
        for write in (
            lambda: store.move("run-1", RunState.EXECUTING, 9, lease=left),
            lambda: store.begin_step("run-1", "s1", 9, lease=left),
            lambda: store.end_step("run-1", "s1", state="done", output="", now_ns=9, lease=left),
            lambda: store.note_validation("run-1", "pass", lease=left),
        ):
            with pytest.raises(Fenced):
                write()
        found = store.run("run-1")
        assert found is not None
        assert (found.state, found.steps, found.validation) == (RunState.APPROVED, (), "")
        assert store.move("run-0", RunState.EXECUTING, 9, lease=kept)

    def test_a_token_decides_not_what_the_process_believes(
        self, open_leases: Callable[..., Leases], store: RunStore, server: Postgres, url: str
    ) -> None:
        one = open_leases("one")
        (lease,) = one.take_runs(ACTIVE, most=1, now_ns=LATER_NS)
        server.execute("UPDATE headspring.leases SET token = 7, owner = 'two'", database=_name(url))
        lease.check()
        with pytest.raises(Fenced):
            store.begin_step("run-0", "s1", 9, lease=lease)
        with pytest.raises(Fenced):
            lease.check()

    def test_nobody_takes_a_run_while_its_owner_writes(
        self, open_leases: Callable[..., Leases], store: RunStore
    ) -> None:
        one, two = open_leases("one", 0.3), open_leases("two")
        (lease,) = one.take_runs(ACTIVE, most=1, now_ns=LATER_NS)
        with store._change(ALL_TENANTS, lease) as connection:
            time.sleep(0.5)
            passed_over = two.take_runs(ACTIVE, most=9, now_ns=LATER_NS)
            assert sorted(one.name for one in passed_over) == ["run-1", "run-2"]
            connection.execute(sa.text("UPDATE runs SET validation = 'mine' WHERE run_id = 'run-0'"))
        assert [(one.name, one.token) for one in two.take_runs(ACTIVE, most=9, now_ns=LATER_NS)] == [("run-0", 2)]

    def test_a_released_lease_is_free_at_once_and_a_lost_one_is_not_released(
        self, open_leases: Callable[..., Leases]
    ) -> None:
        one, two = open_leases("one"), open_leases("two")
        (lease,) = one.take_runs(ACTIVE, most=1, now_ns=LATER_NS)
        one.release(lease)
        with pytest.raises(Fenced):
            lease.check()
        (again,) = two.take_runs(ACTIVE, most=1, now_ns=LATER_NS)
        assert (again.name, again.token) == ("run-0", 2)
        one.release(lease)
        assert two.renew([again]) == []
        assert two.take("sweep") is not None
        assert one.take("sweep") is None


def test_the_kill_switch_is_seen_by_every_process_within_a_second(url: str) -> None:
    one, two = RowFreeze(url), RowFreeze(url)
    assert (one.frozen, two.frozen) == (False, False)
    for frozen in (True, False):
        one.set(frozen)
        assert one.frozen is frozen
        deadline = time.monotonic() + 1.0
        while two.frozen is not frozen and time.monotonic() < deadline:
            time.sleep(0.02)
        assert two.frozen is frozen
    one.set(True)
    assert two.now()
    one.close()
    two.close()
    again = RowFreeze(url)
    assert again.frozen
    again.close()


class _Channel:
    name = "channel"

    def __init__(self) -> None:
        self.away = False
        self.sent = 0

    def send(self, notification: Notification) -> None:
        time.sleep(0.2)
        if self.away:
            raise Unavailable("the channel is away")
        self.sent += 1


def test_a_message_is_sent_by_one_process_and_by_another_when_that_one_could_not(url: str) -> None:
    channels = [_Channel() for _ in range(4)]
    dispatchers = [Dispatcher([channel], url) for channel in channels]
    message = Notification(incident_id="inc-1", title="t", body="b")

    def all_send() -> list[Delivery]:
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(lambda one: one.send(message)["channel"], dispatchers)
            return sorted(answers)

    channels[0].away = True
    assert dispatchers[0].send(message) == {"channel": Delivery.FAILED}
    channels[0].away = False
    assert all_send() == [Delivery.REPEATED] * 3 + [Delivery.SENT]
    assert all_send() == [Delivery.REPEATED] * 4
    assert sum(channel.sent for channel in channels) == 1
    for dispatcher in dispatchers:
        dispatcher.close()


def test_a_message_of_a_process_that_died_while_it_sent_it_is_free_after_a_while(url: str, server: Postgres) -> None:
    first, second = SentMessages(url), SentMessages(url)
    key = ("inc-1", "channel", "kind")
    assert first.claim(key) is Claim.YOURS  # and dies
    assert second.claim(key) is Claim.ELSEWHERE
    server.execute("UPDATE headspring.sending SET until = now() - interval '1 second'", database=_name(url))
    assert second.claim(key) is Claim.YOURS
    second.end(key, sent=True)
    assert first.claim(key) is Claim.SENT
    first.close()
    second.close()


def test_the_same_key_at_once_in_two_processes_starts_one_run(open_store: OpenStore) -> None:
    stores = [open_store(), open_store()]
    for number in range(10):
        with ThreadPoolExecutor(2) as pool:
            futures = [
                pool.submit(store.add, f"run-{number}-{which}", plan(), idempotency_key=f"k{number}")
                for which, store in enumerate(stores)
            ]
        problems = [future.exception() for future in futures]
        assert sum(isinstance(problem, Conflict) for problem in problems) == 1


def _name(url: str) -> str:
    return url.rpartition("/")[2]
