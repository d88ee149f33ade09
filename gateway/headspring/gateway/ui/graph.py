"""The propagation path as a drawing: cause left, impact right. Topology in, boxes and arrows out; pure.

Shown are the path and what is near it. The rest of a large estate is counted, not drawn, so that the
picture of two hundred services is as readable as that of six.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from headspring.knowledge.topology.graph import Topology
from headspring.proto.ids import entity_name
from headspring.proto.incident import Hypothesis

BOX_WIDTH, BOX_HEIGHT = 148, 48
_GAP_X, _GAP_Y, _MARGIN = 84, 24, 8
MAX_BOXES = 40
"""More are counted in words: a drawing beyond that is no longer read."""
_MAX_ROWS = 8
_MAX_NAME = 17
"""Characters that fit a box; the full name is in its title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    entity: str
    name: str
    role: str
    """`cause`, `path`, `impact`, `affected` or `well` (looked at and ruled out)."""
    x: int
    y: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """From where trouble comes to where it goes."""

    source: str
    target: str
    d: str
    """SVG path data."""
    on_path: bool
    ruled_out: bool = False
    """A call over which no trouble came: drawn without a tip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    width: int
    height: int
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    left_out: int
    """Entities of the incident that are not drawn."""
    text: str
    """The same in words."""


def draw(
    hypothesis: Hypothesis, topology: Topology, entities: Sequence[str], *, ruled_out: Sequence[str] = ()
) -> Drawing | None:
    """Lays out what a hypothesis says.

    Args:
        hypothesis: Its `path` runs from the cause to the alerted entity.
        topology: Edges caller → callee.
        entities: Everything in the incident.
        ruled_out: Looked at and found well; those the cause calls stand left of it.
    """
    path = hypothesis.path or ((hypothesis.entity,) if hypothesis.entity else ())
    if not path:
        return None
    wanted = dict.fromkeys((*hypothesis.explained, *entities))
    below = set(topology.callees(path[0]))
    before = [item for item in dict.fromkeys(ruled_out) if item in below and item not in path and item not in wanted]
    before = before[:_MAX_ROWS]
    shift = 1 if before else 0
    column = {entity: place + shift for place, entity in enumerate(path)}
    distance = topology.hops(path[0], len(path) + 4)
    others = sorted(
        (entity for entity in wanted if entity not in column), key=lambda item: (distance.get(item, 99), item)
    )
    taken: dict[int, int] = dict.fromkeys(column.values(), 1)
    rows: dict[str, int] = dict.fromkeys(path, 0)
    for row, entity in enumerate(before):
        column[entity], rows[entity] = 0, row
    left_out = 0
    for entity in others:
        place = min(distance.get(entity, len(path)), len(path)) + shift
        if len(rows) >= MAX_BOXES or taken.get(place, 1) >= _MAX_ROWS:
            left_out += 1
            continue
        # Row 0 is the path's own, also in a column that the path does not reach.
        rows[entity] = taken.get(place, 1)
        taken[place] = rows[entity] + 1
        column[entity] = place
    boxes = tuple(
        Box(
            entity=entity,
            name=_clipped(entity_name(entity)),
            role=_role(entity, path, wanted),
            x=_MARGIN + column[entity] * (BOX_WIDTH + _GAP_X),
            y=_MARGIN + row * (BOX_HEIGHT + _GAP_Y),
        )
        for entity, row in rows.items()
    )
    at = {box.entity: box for box in boxes}
    steps = set(pairwise(path))
    arrows = [_arrow(at[a], at[b], on_path=True) for a, b in pairwise(path)]
    drawn = set(steps)
    for edge in topology.edges:
        if edge.caller not in at or edge.callee not in at or edge.caller == edge.callee:
            continue
        # Errors and slowness travel from the called to its caller, so arrows point that way.
        pair = (edge.callee, edge.caller)
        if pair in drawn or (edge.caller, edge.callee) in steps:
            continue
        drawn.add(pair)
        arrows.append(_arrow(at[edge.callee], at[edge.caller], on_path=False))
    return Drawing(
        width=2 * _MARGIN + (max(column[entity] for entity in rows) + 1) * (BOX_WIDTH + _GAP_X) - _GAP_X,
        height=2 * _MARGIN + (max(rows.values()) + 1) * (BOX_HEIGHT + _GAP_Y) - _GAP_Y,
        boxes=boxes,
        arrows=tuple(sorted(arrows, key=lambda arrow: arrow.on_path)),
        left_out=left_out,
        text=" → ".join(entity_name(entity) for entity in path),
    )


def _role(entity: str, path: Sequence[str], wanted: dict[str, None]) -> str:
    if entity == path[0]:
        return "cause"
    if entity == path[-1]:
        return "impact"
    if entity in path:
        return "path"
    return "affected" if entity in wanted else "well"


def _arrow(source: Box, target: Box, *, on_path: bool) -> Arrow:
    """A curve between the sides that face each other; between boxes of one column along their right side."""
    y1, y2 = source.y + BOX_HEIGHT / 2, target.y + BOX_HEIGHT / 2
    if source.x < target.x:
        x1, x2 = source.x + BOX_WIDTH, target.x
        bend = max(24.0, (x2 - x1) / 2)
        d = f"M{x1},{y1:g} C{x1 + bend:g},{y1:g} {x2 - bend:g},{y2:g} {x2},{y2:g}"
    elif source.x > target.x:
        x1, x2 = source.x, target.x + BOX_WIDTH
        bend = max(24.0, (x1 - x2) / 2)
        d = f"M{x1},{y1:g} C{x1 - bend:g},{y1:g} {x2 + bend:g},{y2:g} {x2},{y2:g}"
    else:
        x1 = source.x + BOX_WIDTH
        d = f"M{x1},{y1:g} C{x1 + 36:g},{y1:g} {x1 + 36:g},{y2:g} {x1},{y2:g}"
    return Arrow(
        source=source.entity, target=target.entity, d=d, on_path=on_path, ruled_out="well" in (source.role, target.role)
    )  # fmt: skip


def _clipped(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"
