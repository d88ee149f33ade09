"""The model registry and the labels on PostgreSQL keep the contract of their ports."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.servers.postgres import Postgres, postgres

from headspring.models.labels.store import LabelStore
from headspring.models.registry.sqlite import SqlModelRegistry
from headspring.models.testing import ModelRegistryContract
from headspring.models.testing.registry import OpenRegistry
from headspring.proto.action import Feedback, ModelVersion

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with postgres(tmp_path_factory.mktemp("postgres")) as started:
        yield started


class TestPostgres(ModelRegistryContract):
    @pytest.fixture
    def open_registry(self, server: Postgres) -> Iterator[OpenRegistry]:
        url, opened = server.database(), list[SqlModelRegistry]()

        def open_one(publish: object) -> SqlModelRegistry:
            opened.append(SqlModelRegistry(url, publish=publish))  # type: ignore[arg-type]  # as the contract gives it
            return opened[-1]

        yield open_one
        for registry in opened:
            registry.close()

    def test_a_move_while_another_process_publishes_is_published_last(self, open_registry: OpenRegistry) -> None:
        """What is newest on the topic is what is newest in the database, whoever publishes."""
        first = open_registry(lambda _: None)
        first.add("t", "m", artifact_digest="d", created_ns=1, metadata={})
        topic: list[ModelVersion] = []
        registries = [open_registry(topic.append) for _ in range(2)]
        with ThreadPoolExecutor(4) as pool:
            moves = [("shadow", 0), ("champion", 1), ("retired", 0), ("shadow", 1), ("retired", 0)]
            for stage, who in moves:
                publishing = [pool.submit(one.publish_pending) for one in registries]
                pool.submit(registries[who].move, "t", "m", 1, stage).result()
                for future in publishing:
                    future.result()
                assert topic[-1].stage == stage


def test_labels_are_kept_once_and_by_tenant(server: Postgres) -> None:
    url = server.database()
    store, other = LabelStore(url), LabelStore(url)
    labels = [
        Feedback(
            feedback_id=f"f{number}", tenant=f"t{number % 2}", subject="inc-1", subject_kind="incident",
            verdict="right-cause", actor="ann", time_ns=number,
        )
        for number in range(4)
    ]  # fmt: skip
    assert store.put(labels) == 4
    assert other.put([*labels, labels[0]]) == 0
    assert [one.feedback_id for one in other.list("t0")] == ["f2", "f0"]
    assert store.counts("t1") == {"right-cause": 2}
    assert store.counts("t2") == {}
    store.close()
    other.close()
