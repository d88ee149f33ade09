"""The registry port: versions of a model and the stage each is in.

Contract (proved by `headspring.models.testing.ModelRegistryContract` on every backend):

- Versions of a model count up from 1; a version's artifact and metadata never change.
- Stages move only along `TRANSITIONS`. A model has at most one champion and one in shadow: promoting
  another retires the one before it, in the same transaction.
- Durable on return. Every change is handed to the publisher, again after a crash in between
  (`publish_pending`); publishing is at least once, the topic keeps the newest per (model, version).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from headspring.proto.action import ModelVersion

CANDIDATE = "candidate"
SHADOW = "shadow"
CHAMPION = "champion"
RETIRED = "retired"

TRANSITIONS: Mapping[str, tuple[str, ...]] = {
    CANDIDATE: (SHADOW, RETIRED),
    SHADOW: (CHAMPION, RETIRED),
    CHAMPION: (RETIRED,),
    # Going back to a champion of before is how a bad promotion is undone.
    RETIRED: (SHADOW, CHAMPION),
}
"""From stage to the stages that may follow. No candidate becomes champion without having run in shadow."""
EXCLUSIVE = (SHADOW, CHAMPION)
"""Stages that only one version of a model holds at a time."""

Publish = Callable[[ModelVersion], None]
"""Puts a version on the `models` topic; returns when it is durable there."""


class ModelRegistry(Protocol):
    """See the module's contract. Calls block; run them in a thread from an event loop."""

    def add(
        self, tenant: str, model_id: str, *, artifact_digest: str, created_ns: int, metadata: Mapping[str, str]
    ) -> ModelVersion:
        """The next version, as candidate."""
        ...

    def move(self, tenant: str, model_id: str, version: int, stage: str, *, expected: str = "") -> ModelVersion:
        """Moves a version to a stage; moving it where it is changes nothing.

        Args:
            expected: the stage the caller believes it is in; "" for any.

        Raises:
            NotFound: no such version.
            Conflict: it is in another stage than `expected`.
            Rejected: `TRANSITIONS` has no such move.
        """
        ...

    def get(self, tenant: str, model_id: str, version: int) -> ModelVersion | None: ...

    def current(self, tenant: str, model_id: str, stage: str = CHAMPION) -> ModelVersion | None:
        """The newest version in a stage."""
        ...

    def versions(self, tenant: str, model_id: str = "") -> Sequence[ModelVersion]:
        """Of one model or all, by model and then newest version first."""
        ...

    def publish_pending(self) -> int:
        """Hands over what a crash kept from being published; returns how many."""
        ...
