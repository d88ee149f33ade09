"""What a runbook may say. Everything else is refused, so that a typing error cannot become an effect."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
    field_validator,
    model_validator,
)

from headspring.proto.ids import ENTITY_KINDS
from headspring.proto.incident import CauseKind

MAX_STEPS = 32
"""Steps of one list; a runbook that needs more should be two."""
MAX_CONDITION_CHARS = 2_000
"""Characters of a CEL condition: far more than any person reads at once."""
MAX_TEXT_CHARS = 8_192
"""Characters of one argument, a JSON body included."""

HTTP_ARGUMENTS = frozenset({"method", "url", "body", "timeout_s"})
PROCESS_ARGUMENTS = frozenset({"argv", "timeout_s"})
HTTP_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_CHARS)]
Words = Annotated[list[Text], Field(min_length=1, max_length=64)]
Body = Annotated[
    dict[Annotated[str, StringConstraints(pattern=r"^\w{1,64}$")], Text | StrictInt | StrictFloat | StrictBool],
    Field(max_length=32),
]
Argument = Text | Words | Body
"""`url`, `method`, `timeout_s` are texts, `argv` a list of words, `body` a flat mapping that becomes JSON."""
Arguments = Annotated[
    dict[Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,32}$")], Argument], Field(max_length=16)
]

_KINDS = {str: "text", list: "list of words", dict: "mapping"}
_VERSION = re.compile(r"^\d{1,4}(\.\d{1,4}){0,2}$")


class _Strict(BaseModel):
    # Strict on names and frozen: a runbook that was read is the one that is planned.
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Match(_Strict):
    """When a runbook is offered."""

    cause_kinds: Annotated[list[CauseKind], Field(min_length=1, max_length=16)]
    entity_kinds: Annotated[list[str], Field(max_length=16)] = []
    """Kinds of entity ids (`service`, `database`, …); empty takes any."""
    min_probability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    needs_change: bool = False
    """True: only for a hypothesis that blames a known change."""
    condition: Annotated[str, StringConstraints(max_length=MAX_CONDITION_CHARS)] = ""
    """CEL over `cause` and `incident`; "" is always true."""

    @field_validator("entity_kinds")
    @classmethod
    def _known_kinds(cls, kinds: list[str]) -> list[str]:
        unknown = [kind for kind in kinds if kind not in ENTITY_KINDS]
        if unknown:
            raise ValueError(f"unknown entity kind {unknown[0]!r}; wanted one of {', '.join(ENTITY_KINDS)}")
        return kinds


class Step(_Strict):
    """One effect, or one reading where `preview` or method GET says so."""

    id: Slug
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    uses: Literal["http", "process"]
    with_: Arguments = Field(alias="with")
    idempotent: bool = False
    """True: the other side makes a repetition with the same Idempotency-Key harmless."""
    preview: dict[str, Text] | None = None
    """What may be read, without effect, to show what the step would meet: `{"url": …}`, always a GET."""

    @model_validator(mode="after")
    def _known_arguments(self) -> Step:
        allowed = HTTP_ARGUMENTS if self.uses == "http" else PROCESS_ARGUMENTS
        unknown = sorted(set(self.with_) - allowed)
        if unknown:
            raise ValueError(f"{self.uses} takes no {unknown[0]!r}; wanted {', '.join(sorted(allowed))}")
        needed = "url" if self.uses == "http" else "argv"
        if needed not in self.with_:
            raise ValueError(f"{self.uses} needs {needed!r} under 'with'")
        for name, value in self.with_.items():
            wanted = {"argv": list, "body": dict}.get(name, str)
            if not isinstance(value, wanted):
                raise ValueError(f"{name!r} is a {_KINDS[wanted]}, got {value!r}")
        argv = self.with_.get("argv")
        if isinstance(argv, list) and (not argv[0].startswith("/") or "${{" in argv[0]):
            raise ValueError(f"argv starts with the full path of a program, got {argv[0]!r}")
        method = self.with_.get("method", "POST")
        if self.uses == "http" and method not in HTTP_METHODS:
            raise ValueError(f"method {method!r} is not one of {', '.join(sorted(HTTP_METHODS))}")
        if self.preview is not None:
            if self.uses != "http":
                raise ValueError("only http steps have a preview")
            if set(self.preview) - {"method", "url"} or "url" not in self.preview:
                raise ValueError("a preview takes 'url' and, at most, 'method: GET'")
            if self.preview.get("method", "GET") != "GET":
                raise ValueError("a preview only reads: method GET")
        return self


class Check(_Strict):
    """What must hold afterwards for the run to count as a success."""

    kind: Literal["alerts_cleared", "query"]
    query: Annotated[str, StringConstraints(max_length=2_000)] = ""
    """PromQL of the declared subset; for `query` only."""
    comparator: Literal["<", "<=", ">", ">=", "==", "!="] = "<"
    threshold: float = Field(default=0.0, allow_inf_nan=False)
    within_s: Annotated[int, Field(ge=1, le=3_600)] = 300

    @model_validator(mode="after")
    def _query_where_needed(self) -> Check:
        if (self.kind == "query") != bool(self.query):
            raise ValueError("'query' belongs to kind query, and to it alone")
        return self


class Approval(_Strict):
    """Who may consent, for how long, and how many."""

    roles: Annotated[list[Literal["operator", "admin"]], Field(min_length=1)] = ["operator"]
    expires_s: Annotated[int, Field(ge=30, le=86_400)] = 900
    min_approvers: Annotated[int, Field(ge=1, le=5)] = 1


class Runbook(_Strict):
    """A tested way from a cause to a fix, and back."""

    name: Slug
    version: str
    title: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    description: Annotated[str, StringConstraints(max_length=4_000)] = ""
    match: Match
    risk: Literal["low", "medium", "high"]
    steps: Annotated[list[Step], Field(min_length=1, max_length=MAX_STEPS)]
    rollback: Annotated[list[Step], Field(max_length=MAX_STEPS)] = []
    validate_: Annotated[list[Check], Field(alias="validate", max_length=16)] = []
    approval: Approval = Approval()

    @field_validator("version", mode="before")
    @classmethod
    def _version_text(cls, version: object) -> str:
        # YAML reads 1.2 as a number and would lose the zero of 1.10, so numbers are refused.
        if not isinstance(version, str) or not _VERSION.match(version):
            raise ValueError(f'version is a quoted text such as "1.0.0", got {version!r}')
        return version

    @model_validator(mode="after")
    def _unique_ids(self) -> Runbook:
        seen: set[str] = set()
        for step in (*self.steps, *self.rollback):
            if step.id in seen:
                raise ValueError(f"step id {step.id!r} is used twice")
            seen.add(step.id)
        if not self.read_only and not self.validate_:
            raise ValueError("a runbook that changes something needs 'validate': how would anybody know it helped")
        return self

    @property
    def read_only(self) -> bool:
        """True where every step only reads."""
        return all(step.uses == "http" and step.with_.get("method", "POST") == "GET" for step in self.steps)
