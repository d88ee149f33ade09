"""The model registry's contract."""

# ruff: noqa: S101 — assertions are what this module is for

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from headspring.models.registry.port import CANDIDATE, CHAMPION, RETIRED, SHADOW, TRANSITIONS, ModelRegistry, Publish
from headspring.proto.action import ModelVersion
from headspring.proto.errors import Conflict, NotFound, Rejected

OpenRegistry = Callable[[Publish], ModelRegistry]


def add(registry: ModelRegistry, model: str = "m", tenant: str = "t") -> ModelVersion:
    return registry.add(tenant, model, artifact_digest="d", created_ns=7, metadata={"auc": "0.9"})


class ModelRegistryContract:
    """Subclass it and give it an `open_registry` fixture: publisher in, the same registry out each time."""

    @pytest.fixture
    def open_registry(self) -> OpenRegistry:
        raise NotImplementedError("the binding gives a fixture open_registry")

    @pytest.fixture
    def published(self) -> list[ModelVersion]:
        return []

    @pytest.fixture
    def registry(self, open_registry: OpenRegistry, published: list[ModelVersion]) -> ModelRegistry:
        return open_registry(published.append)

    def test_versions_count_up_as_candidates(self, registry: ModelRegistry, published: list[ModelVersion]) -> None:
        first, second, other = add(registry), add(registry), add(registry, "other")
        assert [(one.version, one.stage) for one in (first, second, other)] == [
            (1, CANDIDATE), (2, CANDIDATE), (1, CANDIDATE),
        ]  # fmt: skip
        assert published == [first, second, other]
        assert registry.get("t", "m", 1) == first
        assert list(registry.versions("t", "m")) == [second, first]
        assert list(registry.versions("t")) == [second, first, other]

    def test_a_candidate_becomes_champion_by_way_of_shadow(self, registry: ModelRegistry) -> None:
        add(registry)
        assert registry.current("t", "m") is None
        with pytest.raises(Rejected, match="shadow"):
            registry.move("t", "m", 1, CHAMPION)
        registry.move("t", "m", 1, SHADOW)
        registry.move("t", "m", 1, CHAMPION)
        champion = registry.current("t", "m")
        assert champion is not None
        assert (champion.version, champion.metadata) == (1, {"auc": "0.9"})

    def test_a_new_champion_retires_the_one_before(
        self, registry: ModelRegistry, published: list[ModelVersion]
    ) -> None:
        for version in (1, 2):
            add(registry)
            registry.move("t", "m", version, SHADOW)
        assert [one.stage for one in registry.versions("t", "m")] == [SHADOW, RETIRED]
        registry.move("t", "m", 2, CHAMPION)
        registry.move("t", "m", 1, SHADOW)
        published.clear()
        registry.move("t", "m", 1, CHAMPION)
        assert [one.stage for one in registry.versions("t", "m")] == [RETIRED, CHAMPION]
        # Readers of the topic never see two champions.
        assert [(one.version, one.stage) for one in published] == [(2, RETIRED), (1, CHAMPION)]

    @pytest.mark.parametrize("start", list(TRANSITIONS))
    @pytest.mark.parametrize("end", [*TRANSITIONS, "nonsense"])
    def test_moves_follow_the_table(self, registry: ModelRegistry, start: str, end: str) -> None:
        add(registry)
        for stage in {CANDIDATE: [], SHADOW: [SHADOW], CHAMPION: [SHADOW, CHAMPION], RETIRED: [RETIRED]}[start]:
            registry.move("t", "m", 1, stage)
        if end == start or end in TRANSITIONS[start]:
            assert registry.move("t", "m", 1, end).stage == end
        else:
            with pytest.raises(Rejected):
                registry.move("t", "m", 1, end)
            found = registry.get("t", "m", 1)
            assert found is not None
            assert found.stage == start

    def test_a_stale_expectation_is_a_conflict(self, registry: ModelRegistry) -> None:
        add(registry)
        registry.move("t", "m", 1, SHADOW, expected=CANDIDATE)
        with pytest.raises(Conflict):
            registry.move("t", "m", 1, RETIRED, expected=CANDIDATE)

    def test_another_tenants_model_is_not_found(self, registry: ModelRegistry) -> None:
        add(registry)
        assert registry.get("other", "m", 1) is None
        assert registry.versions("other") == []
        with pytest.raises(NotFound):
            registry.move("other", "m", 1, SHADOW)

    def test_what_could_not_be_published_is_published_when_opened_again(self, open_registry: OpenRegistry) -> None:
        def broken(_: ModelVersion) -> None:
            raise ConnectionError("the log is away")

        registry = open_registry(lambda _: None)
        add(registry)
        failing = open_registry(broken)
        with pytest.raises(ConnectionError):
            failing.move("t", "m", 1, SHADOW)
        seen: list[ModelVersion] = []
        again = open_registry(seen.append)
        assert [(one.version, one.stage) for one in seen] == [(1, SHADOW)]
        assert again.publish_pending() == 0

    def test_threads_never_get_the_same_version(self, open_registry: OpenRegistry) -> None:
        versions: list[int] = []
        registries = [open_registry(lambda _: None) for _ in range(4)]

        def work(registry: ModelRegistry) -> None:
            versions.extend(add(registry).version for _ in range(5))

        threads = [threading.Thread(target=work, args=(one,)) for one in registries]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(versions) == list(range(1, 21))
