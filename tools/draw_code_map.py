"""Draw docs/images/code-map.svg: the packages and the imports between them, read from the code.

The rows are the layers of the import-linter contract in pyproject.toml. An arrow means "imports".
An arrow that follows from two others is left out, so the picture is the transitive reduction of the
real graph. Run by `make docs/images`.
"""

from __future__ import annotations

import math
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import grimp

from svg import Box, arrow, document, text

ROOT = Path(__file__).parents[1]
PACKAGE = "mpu_cli"
COLUMN = {"server": 0, "bundle": 0, "architectures": 0, "demo": 2, "evaluation": 2}
"""Where a package stands in its row; the middle column where nothing is said."""
COLOUR = {"server": "server", "client": "client"}
WORDS = {
    "cli": "parses, prints, exits",
    "demo": "both parties on one machine",
    "audit": "attacks on one's own files",
    "server": "the model owner's half",
    "client": "the data owner's half",
    "evaluation": "metrics, records, comparison",
    "bundle": "what the parties exchange",
    "training": "the training loop",
    "modeling": "a model as torch runs it",
    "data": "rows, prompts, batches",
    "checkpoint": "model directories on disk",
    "architectures": "model families as data files",
}


def layers() -> list[list[str]]:
    """The rows of the contract, top to bottom, without single modules, which all may import."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    rows = next(each["layers"] for each in contracts if each["type"] == "layers")
    names = [[part.strip().partition(".")[2] for part in row.split("|")] for row in rows]
    return [row for row in names if all((ROOT / "src" / PACKAGE / name).is_dir() for name in row)]


def imports(packages: set[str]) -> dict[str, set[str]]:
    """Which package imports which, among these, anywhere in its modules."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    found: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        source = module.split(".")[1:2]
        for imported in graph.find_modules_directly_imported_by(module):
            target = imported.split(".")[1:2]
            if source != target and {*source, *target} <= packages and source and target:
                found[source[0]].add(target[0])
    return found


def reduced(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The edges that no longer path implies, sorted."""

    def reach(start: str) -> set[str]:
        return set().union(*({child} | reach(child) for child in graph.get(start, ())))

    return sorted(
        (source, target)
        for source, targets in graph.items()
        for target in targets
        if not any(target in reach(other) for other in targets)
    )


def subpackages(name: str) -> list[str]:
    """The package's own subpackages, sorted."""
    folder = ROOT / "src" / PACKAGE / name
    return sorted(file.parent.name for file in folder.glob("*/__init__.py"))


def caption(name: str) -> list[tuple[str, str]]:
    """The lines in a package's box: its name, what it is, and its subpackages."""
    inside = subpackages(name)
    lines = inside[:3], inside[3:]
    words = (
        [WORDS.get(name, ""), " · ".join(inside)] if len(inside) <= 3 else map(" · ".join, lines)
    )
    return [("title", name), *(("words", line) for line in words if line)]


def draw() -> str:
    """The whole picture."""
    boxes: dict[str, Box] = {}
    for number, row in enumerate(layers()):
        for place, name in enumerate(row):
            column = COLUMN.get(name, 1 if len(row) < 3 else place)
            boxes[name] = Box(115 + 315 * column, 40 + 84 * number, 210, 60)
    parts = []
    edges = reduced(imports(set(boxes)))
    for source, target in edges:
        upper, lower = boxes[source], boxes[target]
        if upper.x == lower.x:
            parts.append(arrow((upper.x, upper.bottom), (lower.x, lower.top)))
        else:  # from side to side, so that it passes beside the boxes of the rows between
            side = math.copysign(upper.width / 2, lower.x - upper.x)
            others = [a for a, b in edges if b == target and boxes[a].x != lower.x]
            others.sort(key=lambda name, x=lower.x: -abs(boxes[name].x - x))
            spread = 22 * (others.index(source) - (len(others) - 1) / 2) - 6
            parts.append(arrow((upper.x + side, upper.y), (lower.x - side, lower.y + spread)))
    parts += [box.draw(COLOUR.get(name, "shared"), *caption(name)) for name, box in boxes.items()]
    bottom = max(box.bottom for box in boxes.values())
    note = (
        "An arrow: imports. Arrows that follow from others are left out, and so are single modules."
    )
    parts.append(text(430, bottom + 26, note))
    return document(860, bottom + 44, "Code map: the packages of mpu and their imports", parts)


if __name__ == "__main__":
    sys.stdout.write(draw())
