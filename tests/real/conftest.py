"""One started platform for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.servers.headspring import Headspring, headspring


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Headspring]:
    """`headspring up`, with a folder of its own."""
    with headspring(tmp_path_factory.mktemp("headspring")) as started:
        yield started
