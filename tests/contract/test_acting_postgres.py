"""The acting side over PostgreSQL keeps every promise that it keeps over files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.servers.postgres import Postgres, postgres
from tests.unit.action.acting import service
from tests.unit.action.test_acting import *  # noqa: F403 - its tests, run again with another `database_url`

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with postgres(tmp_path_factory.mktemp("postgres")) as started:
        yield started


@pytest.fixture(scope="module")
def prepared(server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with all tables and nothing in them: making those of workflows takes seconds."""
    url = server.database()
    once = service(tmp_path_factory.mktemp("once"), "http://127.0.0.1:9", database_url=url)
    once.start()
    once.stop()
    # What else the start wrote belongs to that process: its signed head, its key.
    server.execute("DELETE FROM headspring.audit_head", database=url.rpartition("/")[2])
    return url


@pytest.fixture  # type: ignore[no-redef]  # the one thing that is another here
def database_url(server: Postgres, prepared: str) -> str:
    return server.database(like=prepared)
