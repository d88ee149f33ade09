"""Contract suites of this room's stores; `tests/contract` binds them to SQLite and to PostgreSQL."""

from headspring.action.testing.audit import AuditLogContract
from headspring.action.testing.runs import RunStoreContract

__all__ = ["AuditLogContract", "RunStoreContract"]
