"""The tables of a store on PostgreSQL: made once however many processes start, versioned, closed to other tenants.

Everything lives in the schema `headspring`, one row per store in `schema_versions`. A table with a column `tenant`
gets row-level security, for its owner too: without a scope nothing can be seen or written, with the scope of a
tenant only that tenant's rows, and background work says that it means all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from headspring.proto.errors import ConfigError

NAME = "headspring"
"""Schema of our tables; the workflow runtime has its own."""
SCOPE = "headspring.scope"
"""Setting of a transaction that says whose rows it works on."""
ALL = "all"
_LOCK = 0x4865616473707267  # "Headsprg"; any number that nobody else takes as an advisory lock
_WAIT = "60s"
"""How long a process waits for another one that makes the tables."""
_HERE = f"current_setting('{SCOPE}', true)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """Tables of one store, and how to come to them."""

    name: str
    """Of the store; its row in `schema_versions`."""
    version: int = 1
    """Raise it with every change of a table, and say how in `upgrades`."""
    tables: sa.MetaData
    within: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Tables without a tenant of their own: table to (column, other table). A row is seen with the row of the other
    table that has the same value in a column of the same name."""
    upgrades: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Statements that lead from a version to the next one."""


def scope_of(tenant: str) -> str:
    """What `SCOPE` holds for one tenant."""
    return f"tenant:{tenant}"


def install(engine: sa.Engine, schema: Schema, where: str) -> None:
    """Makes or upgrades the tables, if need be. Touches nothing where they are as this program wants them, so that a
    role without the right to make tables will do from then on.

    Raises:
        ConfigError: the database holds tables of a newer program.
    """
    with engine.begin() as connection:
        if _found(connection, schema, where) == schema.version:
            return
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_WAIT}'")
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_WAIT}'")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {NAME}")
        connection.exec_driver_sql(
            f"CREATE TABLE IF NOT EXISTS {NAME}.schema_versions (store text PRIMARY KEY, version integer NOT NULL)"
        )
        found = _found(connection, schema, where)  # somebody else may have made them while this one waited
        if found == 0:
            schema.tables.create_all(connection)
            for statement in _policies(schema):
                connection.exec_driver_sql(statement)
        for version in range(found or schema.version, schema.version):
            for statement in schema.upgrades[version]:
                connection.exec_driver_sql(statement)
        connection.execute(
            sa.text(
                f"INSERT INTO {NAME}.schema_versions VALUES (:store, :version) "  # noqa: S608
                "ON CONFLICT (store) DO UPDATE SET version = excluded.version"
            ),
            {"store": schema.name, "version": schema.version},
        )


def _found(connection: sa.Connection, schema: Schema, where: str) -> int:
    """Version of the tables that are there; 0 where there are none."""
    if not connection.execute(sa.select(sa.func.to_regclass(f"{NAME}.schema_versions"))).scalar():
        return 0
    found = connection.execute(
        sa.text(f"SELECT version FROM {NAME}.schema_versions WHERE store = :store"),  # noqa: S608
        {"store": schema.name},
    ).scalar()
    if found is not None and found > schema.version:
        raise ConfigError(
            f"{where}: its tables of {schema.name} have version {found}, this program knows {schema.version}; "
            "start a newer Headspring, or restore a backup from before the upgrade"
        )
    return int(found or 0)


def _policies(schema: Schema) -> Sequence[str]:
    """Row-level security of every table that belongs to tenants."""
    statements: list[str] = []
    for table in schema.tables.sorted_tables:
        if "tenant" in table.c:
            rule = f"{_HERE} = 'tenant:' || tenant"
        elif table.name in schema.within:
            column, other = schema.within[table.name]
            # The other table's own policy decides which of its rows this sees.
            rule = f"EXISTS (SELECT 1 FROM {other} WHERE {other}.{column} = {table.name}.{column})"  # noqa: S608
        else:
            continue
        statements += [
            f"ALTER TABLE {table.name} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table.name} FORCE ROW LEVEL SECURITY",
            f"CREATE POLICY of_tenant ON {table.name} USING ({_HERE} = '{ALL}' OR {rule})",
        ]
    return statements
