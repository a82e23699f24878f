"""Prepared entropy: for experiments only, and out of reach of the commands."""

from __future__ import annotations

import ast
from pathlib import Path

import mpu_cli
from mpu_cli.checkpoint.locate import locate
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.server.secrets.prepared import current_entropy, prepared_entropy

PREPARED = "mpu_cli.server.secrets.prepared"
SOURCE = Path(mpu_cli.__file__).parent


def published(pair, directory: Path, draw: str | None) -> tuple[bytes, Lineage]:
    """The first copy's weights and the lineage of one perturb."""
    target, settings = (
        Target(directory / "handoff", directory / "secret"),
        PerturbSettings(copies=2),
    )
    directory.mkdir()
    if draw is None:
        perturb(locate(str(pair.model)), locate(str(pair.base)), target, settings)
    else:
        with prepared_entropy(draw):
            perturb(locate(str(pair.model)), locate(str(pair.base)), target, settings)
    file = directory / "handoff" / "copy-1" / "model.safetensors"
    return file.read_bytes(), Lineage.read(directory / "secret")


def test_a_draw_decides_every_bit(tiny_pair, tmp_path):
    """The same text gives the same copies and ids, another text others; origin is test."""
    pair = tiny_pair("llama")
    one, again, other, system = (
        published(pair, tmp_path / name, draw)
        for name, draw in (("a", "seed=1"), ("b", "seed=1"), ("c", "seed=2"), ("d", None))
    )
    assert one[0] == again[0] != other[0]
    assert one[1].handoffs.keys() == again[1].handoffs.keys() != other[1].handoffs.keys()
    assert {one[1].secret.origin, other[1].secret.origin} == {"test"}
    assert system[1].secret.origin == "system"
    assert system[0] not in {one[0], other[0]}


def test_ids_of_one_draw_differ():
    """Lineage, draw and handoffs have ids of their own, and another draw has others."""
    with prepared_entropy("a"):
        entropy = current_entropy()
        ids = [entropy.new_id() for _ in range(4)] + [current_entropy().new_id()]
    with prepared_entropy("b"):
        ids += [current_entropy().new_id() for _ in range(5)]
    assert len(set(ids)) == 10
    assert current_entropy().origin == "system"


def test_no_command_can_prepare_entropy():
    """Only the program of an experiment's step imports what prepares it."""
    importers = set()
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == PREPARED:
                names = {alias.name for alias in node.names}
                if "prepared_entropy" in names:
                    importers.add(path.relative_to(SOURCE).as_posix())
    assert importers <= {"experiment/child.py"}
