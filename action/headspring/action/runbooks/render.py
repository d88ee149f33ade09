"""Filling in what a runbook leaves open: typed references, each into one argument, never into a language.

`${{ cause.name }}` stands for a text. Inside an address it is percent-encoded, inside a JSON body it is one
string value, inside `argv` it stays one word. There is no expression, no nesting and no second pass: a value
that itself looks like a reference is left as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

from headspring.action.runbooks.schema import Argument
from headspring.proto.errors import ConfigError, PreconditionFailed
from headspring.proto.ids import split_entity
from headspring.proto.incident import Diagnosis, Hypothesis, Incident

MAX_VALUE_CHARS = 512
"""Characters of one filled-in value; names, ids and versions are far shorter."""

REFERENCES = frozenset(
    {
        "cause.entity", "cause.kind", "cause.metric", "cause.name", "cause.namespace", "change.entity", "change.id",
        "change.previous_version", "change.version", "incident.id", "incident.severity", "incident.title",
    }
)  # fmt: skip
"""What may be referred to, besides `settings.NAME`."""

_REFERENCE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_PATH = re.compile(r"^[a-z]+\.[A-Za-z_][A-Za-z0-9_]*$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def references(text: str) -> tuple[str, ...]:
    """The references of a template, in order.

    Raises:
        ConfigError: one that nothing here can answer, or one that is not closed.

    >>> references("${{ settings.ops_url }}/services/${{ cause.name }}")
    ('settings.ops_url', 'cause.name')
    """
    found = tuple(match.strip() for match in _REFERENCE.findall(text))
    for name in found:
        if name not in REFERENCES and not (name.startswith("settings.") and _PATH.match(name)):
            raise ConfigError(
                f"unknown reference {name!r}; wanted settings.NAME or one of {', '.join(sorted(REFERENCES))}"
            )
    if "${{" in _REFERENCE.sub("", text):
        raise ConfigError(f"a reference is not closed in {text!r}")
    return found


def values(
    *, hypothesis: Hypothesis, diagnosis: Diagnosis, incident: Incident, settings: Mapping[str, str]
) -> Mapping[str, str]:
    """What each reference stands for; what is not known is absent or ""."""
    try:
        _, namespace, name = split_entity(hypothesis.entity)
    except ValueError:
        namespace, name = "", hypothesis.entity
    known = {
        "cause.entity": hypothesis.entity,
        "cause.name": name,
        "cause.namespace": namespace,
        "cause.kind": hypothesis.kind.value,
        "cause.metric": hypothesis.metric,
        "incident.id": incident.incident_id,
        "incident.severity": incident.severity.value,
        "incident.title": incident.title,
        **{f"settings.{key}": value for key, value in settings.items()},
    }
    change = next(
        (one for one in diagnosis.changes if hypothesis.change_id and one.change_id == hypothesis.change_id), None
    )
    if change is not None:
        known |= {
            "change.id": change.change_id,
            "change.entity": change.entity,
            "change.version": change.version,
            "change.previous_version": change.previous_version,
        }
    return known


def render(name: str, argument: Argument, known: Mapping[str, str]) -> str:
    """One argument as the text that an executor takes: an address, a word, JSON for `argv` and `body`.

    Raises:
        ConfigError: a setting is missing, or a reference does not exist.
        PreconditionFailed: this incident does not have the value, or the value cannot stand there.
    """
    if isinstance(argument, list):
        return json.dumps([_word(word, known) for word in argument], ensure_ascii=False)
    if isinstance(argument, dict):
        filled = {
            key: _fill(value, known, _plain) if isinstance(value, str) else value for key, value in argument.items()
        }
        return json.dumps(filled, sort_keys=True, ensure_ascii=False)
    return render_url(argument, known) if name == "url" else _fill(argument, known, _plain)


def render_url(template: str, known: Mapping[str, str]) -> str:
    """An address. A setting at its very start is taken as it is, everything else is percent-encoded.

    >>> render_url("${{ settings.ops_url }}/services/${{ cause.name }}",
    ...            {"settings.ops_url": "http://ops:8080/", "cause.name": "a/b c"})
    'http://ops:8080/services/a%2Fb%20c'
    """
    base = re.match(r"\$\{\{\s*settings\.\w+\s*\}\}", template)
    if base is None and not re.match(r"https?://[^/${}]+(/|$)", template):
        raise ConfigError(f"an address starts with a setting or with http(s)://host, got {template!r}")
    if base is not None and template[base.end() : base.end() + 1] not in ("", "/"):
        raise ConfigError(f"after the setting an address goes on with '/', got {template!r}")
    start = "" if base is None else _fill(base.group(), known, _plain).rstrip("/")
    return start + _fill(template[base.end() if base else 0 :], known, _encoded)


def _word(template: str, known: Mapping[str, str]) -> str:
    word = _fill(template, known, _plain)
    if word.startswith("-") and not template.startswith("-"):
        raise PreconditionFailed(f"{word!r} would read as an option of the program")
    return word


def _fill(template: str, known: Mapping[str, str], put: Callable[[str, str], str]) -> str:
    references(template)
    return _REFERENCE.sub(lambda match: put(match[1].strip(), _value(match[1].strip(), known)), template)


def _value(name: str, known: Mapping[str, str]) -> str:
    value = known.get(name, "")
    if not value:
        if name.startswith("settings."):
            raise ConfigError(f"this runbook needs the setting {name.removeprefix('settings.')!r}, which is not set")
        raise PreconditionFailed(f"this runbook needs {name}, which is not known for this incident")
    if len(value) > MAX_VALUE_CHARS:
        raise PreconditionFailed(f"{name} has {len(value)} characters, at most {MAX_VALUE_CHARS} are filled in")
    if _CONTROL.search(value):
        raise PreconditionFailed(f"{name} holds control characters")
    return value


def _plain(_: str, value: str) -> str:
    return value


def _encoded(name: str, value: str) -> str:
    if value in (".", ".."):
        raise PreconditionFailed(f"{name} is {value!r}, which would change the path of the address")
    return quote(value, safe="")
