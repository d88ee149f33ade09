"""Reading runbooks: YAML with places, so that a mistake is shown where it stands."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from headspring.action.runbooks.conditions import check_condition
from headspring.action.runbooks.render import references, render_url
from headspring.action.runbooks.schema import Runbook, Step
from headspring.proto.errors import ConfigError

MAX_BYTES = 256 * 1024
"""Bytes of one runbook file."""
MAX_FILES = 1_000
"""Runbook files of one folder."""
_MAX_DEPTH = 12
"""Nested collections; a runbook needs five. Keeps the parser's recursion small."""

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a file is not a runbook."""

    file: str
    line: int
    """1-based."""
    column: int
    """1-based."""
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}" + (f" ({self.hint})" if self.hint else "")


def lint(text: str, file: str) -> list[Problem]:
    """Everything that is wrong with a runbook, in the order of the file; [] when it can be used."""
    return _read(text, file)[1]


def parse(text: str, file: str) -> Runbook:
    """The runbook in `text`.

    Raises:
        ConfigError: it is none; the message names every problem with its place.
    """
    runbook, problems = _read(text, file)
    if runbook is None or problems:
        raise ConfigError("\n".join(map(str, problems)))
    return runbook


def lint_files(paths: Sequence[Path]) -> list[Problem]:
    """Everything that is wrong with files and the files of folders, in their order.

    Raises:
        ConfigError: a path does not exist, or a folder holds too many files.
    """
    problems: list[Problem] = []
    for path in paths:
        names: dict[str, Path] = {}
        for file in _files(path) if path.is_dir() else [path]:
            text, found = _text(file)
            runbook, problems_of_file = (None, found) if text is None else _read(text, str(file))
            problems += problems_of_file
            if runbook is not None and runbook.name in names:
                message = f"the name {runbook.name!r} is taken by {names[runbook.name]}"
                problems.append(Problem(file=str(file), line=1, column=1, message=message))
            elif runbook is not None:
                names[runbook.name] = file
    return problems


def load_library(folder: Path | None = None) -> dict[str, Runbook]:
    """The runbooks that come with the platform, by name, and those of `folder`, which win over ours.

    Raises:
        ConfigError: a file is no runbook, two files of the folder have the same name, or the folder is missing.
    """
    if folder is None:
        return dict(_packaged())
    if not folder.is_dir():
        raise ConfigError(f"the runbook folder {folder} does not exist")
    problems = lint_files([folder])
    if problems:
        raise ConfigError("\n".join(map(str, problems)))
    own = [parse(file.read_text("utf-8"), str(file)) for file in _files(folder)]
    return {**_packaged(), **{runbook.name: runbook for runbook in own}}


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())
    if len(files) > MAX_FILES:
        raise ConfigError(f"{folder} holds {len(files)} runbooks, at most {MAX_FILES} are read")
    return files


def _text(file: Path) -> tuple[str | None, list[Problem]]:
    try:
        if file.stat().st_size > MAX_BYTES:
            message = f"the file has {file.stat().st_size} bytes, a runbook has at most {MAX_BYTES}"
            return None, [Problem(file=str(file), line=1, column=1, message=message)]
        return file.read_text("utf-8"), []
    except UnicodeDecodeError as error:
        return None, [Problem(file=str(file), line=1, column=1, message=f"the file is not UTF-8: {error}")]
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error


@functools.cache
def _packaged() -> Mapping[str, Runbook]:
    files = sorted(
        (entry for entry in (resources.files("headspring.action.runbooks") / "library").iterdir()),
        key=lambda entry: entry.name,
    )
    runbooks = [parse(entry.read_text("utf-8"), entry.name) for entry in files if entry.name.endswith(".yaml")]
    return {runbook.name: runbook for runbook in runbooks}


def _read(text: str, file: str) -> tuple[Runbook | None, list[Problem]]:
    def problem(message: str, line: int = 0, column: int = 0, hint: str = "") -> Problem:
        return Problem(file=file, line=line + 1, column=column + 1, message=message, hint=hint)

    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        return None, [problem(f"the file has {size} bytes, at most {MAX_BYTES} are read")]
    try:
        refused = next(_refused(text), None)
        if refused is not None:
            return None, [problem(*refused)]
        tree = YAML(typ="rt").load(StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = error.problem or error.context or "this is not YAML"
        return None, [problem(message, mark.line if mark else 0, mark.column if mark else 0)]
    except (YAMLError, ValueError) as error:  # ValueError: such as a date that does not exist
        return None, [problem(f"this is not YAML: {error}".splitlines()[0])]
    if not isinstance(tree, dict):
        return None, [problem("a runbook is a mapping", hint="begin with 'name: …'")]
    try:
        runbook = Runbook.model_validate(_plain(tree))
    except ValidationError as error:
        found = [
            problem(_words(one["msg"]), *_place(tree, one["loc"]), ".".join(map(str, one["loc"])))
            for one in error.errors()
        ]
        return None, sorted(found, key=lambda one: (one.line, one.column))
    return runbook, [problem(str(error), *_place(tree, path)) for path, error in _meaning(runbook)]


def _meaning(runbook: Runbook) -> Iterator[tuple[Path_, ConfigError]]:
    """What the schema cannot see: references, addresses and the condition."""
    try:
        check_condition(runbook.match.condition)
    except ConfigError as error:
        yield ("match", "condition"), error
    lists: tuple[tuple[str, Sequence[Step]], ...] = (("steps", runbook.steps), ("rollback", runbook.rollback))
    for part, steps in lists:
        for number, step in enumerate(steps):
            for section, arguments in (("with", step.with_), ("preview", step.preview or {})):
                for name, value in arguments.items():
                    try:
                        _check_argument(name, value)
                    except ConfigError as error:
                        yield (part, number, section, name), error


def _check_argument(name: str, value: object) -> None:
    texts = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
    found = [reference for text in texts if isinstance(text, str) for reference in references(text)]
    if name == "url" and isinstance(value, str):
        render_url(value, dict.fromkeys(found, "x"))


def _refused(text: str) -> Iterator[tuple[str, int, int, str]]:
    depth = 0
    documents = 0
    for event in YAML(typ="rt").parse(StringIO(text)):
        mark = event.start_mark
        documents += type(event).__name__ == "DocumentStartEvent"
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            yield "anchors and aliases are refused", mark.line, mark.column, "write the value out"
        elif depth > _MAX_DEPTH:
            yield f"nested deeper than {_MAX_DEPTH}", mark.line, mark.column, ""
        elif documents > 1:
            yield "one file holds one runbook", mark.line, mark.column, "split it at '---'"


def _plain(node: Any) -> Any:
    """ruamel's round-trip nodes as plain dicts, lists and scalars; `Any`: YAML is untyped until validated."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _place(tree: Any, path: Sequence[str | int]) -> tuple[int, int]:
    """0-based line and column of the deepest part of `path` that the file has."""
    line, column, node = 0, 0, tree
    for key in path:
        try:
            line, column = _position(node, key)
            node = node[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line, column


def _words(message: str) -> str:
    return message.removeprefix("Value error, ")


def _position(node: Any, key: str | int) -> tuple[int, int]:
    line, column = node.lc.key(key) if isinstance(node, dict) else node.lc.item(key)  # type: ignore[attr-defined]  # ruamel's own dict
    return int(line), int(column)
