"""The contracts of this room's ports as test suites; a binding gives the fixture that opens the backend."""

from headspring.models.testing.artifacts import ArtifactStoreContract
from headspring.models.testing.registry import ModelRegistryContract

__all__ = ["ArtifactStoreContract", "ModelRegistryContract"]
