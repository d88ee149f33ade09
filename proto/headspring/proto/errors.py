"""Every error Headspring raises on purpose, drawn as a tree.

::

    PlatformError
    ├── ConfigError            start-up: names the setting, what it held and what it takes
    │   └── Unreachable        nothing answers there: a wrong address, or not up yet; also an Unavailable
    ├── ContractError          a message cannot be read: dead letter, never retried
    │   └── LimitExceeded      the message is readable but larger than a limit allows
    ├── BackendError           a store, broker or remote service
    │   ├── Unavailable        not now: retry with back-off
    │   ├── Conflict           somebody else was first: read again
    │   ├── NotFound           no such thing
    │   └── Rejected           it will never take this: do not retry
    ├── NotReady               a model is unfitted, state is still recovering
    ├── AccessError            who asks may not
    │   ├── Unauthenticated    no key, or one we do not know
    │   └── Forbidden          a known key whose role does not allow this
    ├── QueryError             a query outside the declared subset, with its position
    └── ActionError            the acting side
        ├── ApprovalRequired   no effect without consent
        ├── PreconditionFailed the world differs from what was approved
        └── ExecutionFailed    a step was tried and failed
            └── RollbackFailed and undoing it failed too: a person is needed

A message says what was found, what was wanted and, for operators, what to do.
"""

from __future__ import annotations


class PlatformError(Exception):
    """Base of every error raised on purpose. `retryable` says whether the same call may succeed later."""

    retryable = False


class ConfigError(PlatformError):
    """A setting cannot be used. The message names it and says what it takes."""


class ContractError(PlatformError):
    """A message does not follow its contract; it goes to the dead letter and is never retried."""


class LimitExceeded(ContractError):
    """A message is larger, deeper or wider than the limit that the message of this error names."""


class BackendError(PlatformError):
    """A store, broker or remote service answered with an error."""


class Unavailable(BackendError):
    """The backend cannot serve now; the caller may retry after `retry_after_s`."""

    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unreachable(ConfigError, Unavailable):
    """At a start nothing answers where a setting says. Only a person can tell a wrong address from a server that is not
    up yet: say so, and try again with longer and longer pauses."""


class Conflict(BackendError):
    """The thing changed since it was read, or exists already: read again and decide."""


class NotFound(BackendError):
    """No such thing."""


class Rejected(BackendError):
    """The backend will never take this; retrying is pointless."""


class NotReady(PlatformError):
    """A model is unfitted or state is still being recovered."""

    retryable = True


class AccessError(PlatformError):
    """Who asks may not do this."""


class Unauthenticated(AccessError):
    """No key was given, or one that is not known here."""


class Forbidden(AccessError):
    """The key is known and its role does not allow this."""


class QueryError(PlatformError):
    """A query cannot be answered. `position` is the 0-based offset of the trouble in the query text."""

    def __init__(self, message: str, *, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


class ActionError(PlatformError):
    """The acting side refused or failed."""


class ApprovalRequired(ActionError):
    """The effect needs consent that nobody has given."""


class PreconditionFailed(ActionError):
    """The world differs from what was approved, so the approval does not hold."""


class ExecutionFailed(ActionError):
    """A step was tried and failed."""


class RollbackFailed(ExecutionFailed):
    """Undoing a step failed: automation stops for this target and a person is needed."""
