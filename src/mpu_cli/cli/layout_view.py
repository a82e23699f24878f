"""How a model is understood, for `mpu inspect MODEL`.

For a reader (`view`), and in full for a program (`detail`).

Never imports torch: it reads a layout and the headers of safetensors files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from mpu_cli.architectures.family import Family
from mpu_cli.architectures.layout import LayerLayout, ModelLayout, Slot
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.cli.layout_kinds import ROLES, LayoutReader, slots_by_role
from mpu_cli.cli.layout_words import braced, expert_parts, parts, ranges
from mpu_cli.cli.output import facts, table
from mpu_cli.errors import UsageError
from mpu_cli.server.transforms import REPARAMETERIZATIONS, load
from mpu_cli.server.transforms.choice import chosen, statuses

OUTSIDE = "outside the decoder layers: exact unless --scope all"
_SAYS = {
    "valid": "keeps the function",
    "invalid": "would change the function",
    "none": "nothing to act on",
}


@dataclass(frozen=True, slots=True)
class LeftExact:
    """Tensors that get no noise with --scope layers, and why."""

    name: str
    """One tensor's, a weight's with its bias, or a glob pattern."""
    tensors: tuple[str, ...]
    why: str


class Understood:
    """A checkpoint, its layout and the data file that it was read by."""

    def __init__(self, model: Checkpoint, layout: ModelLayout, family: Family) -> None:
        self.model, self.layout, self.family = model, layout, family
        self.prefixes = {
            layer.index: family.layers.format(i=layer.index) + "." for layer in layout.layers
        }
        self.reader = LayoutReader(model.tensors, self.prefixes)
        self.noised = [name for layer in layout.layers for name in layer.noised]
        self.statuses = statuses(layout)

    def entries(self, names: Iterable[str]) -> int:
        """How many numbers these tensors hold."""
        return sum(self.model.tensors[name].elements for name in names)

    def uses(self, reparameterization: str) -> tuple[str, ...] | None:
        """The transforms of a --reparam; None if it is refused for this model."""
        try:
            return chosen(reparameterization, self.layout)
        except UsageError:
            return None

    def left_exact(self) -> list[LeftExact]:
        """Tensors outside of the layers by role, then those that the data file leaves alone by its patterns."""
        found = []
        for names in self.layout.outside.values():
            stems, endings = zip(*(name.rpartition(".")[::2] for name in names), strict=True)
            found.append(LeftExact(f"{stems[0]}.{braced(endings)}", names, OUTSIDE))
        for pattern, reason in self.family.left_alone.items():
            names = tuple(name for name in self.model.tensors if fnmatchcase(name, pattern))
            if names:
                found.append(LeftExact(names[0] if len(names) == 1 else pattern, names, reason))
        return found

    def acting(self, name: str) -> list[int]:
        """The layers in which a transform that keeps the function has something to move."""
        if self.statuses[name].kind != "valid":
            return []
        acts_on = load(name).acts_on
        return [layer.index for layer in self.layout.layers if acts_on(layer)]


def view(understood: Understood) -> list[RenderableType]:
    """The model for a reader: facts, one table for each kind of layer, transforms, noise."""
    model, layout = understood.model, understood.layout
    told = {
        "kind": f"model: {model.config.get('model_type')} (family file {layout.family}.yaml)",
        "size": f"{model.elements:,} parameters in {len(layout.layers)} layers, {model.dtype}",
    }
    body: list[RenderableType] = [facts(told)]
    kinds = understood.reader.kinds(layout.layers)
    prefix = understood.family.layers.replace("{i}", "*") + "."
    body += ["", f"Layers: what lies along each axis of {prefix}…"]
    for kind in kinds:
        word = "layer" if len(kind.layers) == 1 else "layers"
        body += ["", f"{word} {ranges(kind.layers)}: {kind.about}"]
        said, rows = "", []
        for row in kind.rows:
            rows.append(
                (
                    "" if row.role == said else ROLES[row.role],
                    row.tensor,
                    row.axis,
                    row.positions,
                    row.parts,
                )
            )
            said = row.role
        body.append(
            _unbroken(table("role", "tensor", "axis", "positions", "parts", rows=rows), "tensor")
        )
    return [*body, "", _transforms(understood), "", *_noise(understood)]


def _transforms(understood: Understood) -> RenderableType:
    rows = []
    users = {name: understood.uses(name) for name in REPARAMETERIZATIONS}
    for name, status in understood.statuses.items():
        text = _SAYS[status.kind] + (f": {status.reason}" if status.reason else "")
        layers = understood.acting(name)
        where = (
            "–"
            if status.kind != "valid"
            else "every layer"
            if len(layers) == len(understood.layout.layers)
            else _layers(layers)
        )
        used = ", ".join(user for user, names in users.items() if names and name in names)
        rows.append((name, text, where, used or "–"))
    refused = [user for user, names in users.items() if names is None]
    rows += [
        (f"--reparam {user}", "refused: it would change the function", "–", "–") for user in refused
    ]
    return _unbroken(
        table("transform", "in this model", "has work in", "used by --reparam", rows=rows),
        "transform",
    )


def _unbroken(made: Table, column: str) -> Table:
    """A table that breaks lines in other columns first: names are copied from here."""
    next(one for one in made.columns if one.header == column).no_wrap = True
    return made


def _layers(numbers: Sequence[int]) -> str:
    return f"layer{'s' if len(numbers) > 1 else ''} {ranges(numbers)}" if numbers else "no layer"


def _noise(understood: Understood) -> list[RenderableType]:
    layout, total = understood.layout, understood.model.elements
    noised, exact = understood.entries(understood.noised), understood.left_exact()
    outside = understood.entries(name for names in layout.outside.values() for name in names)
    told = {
        "gets noise": (
            f"{len(understood.noised)} tensors, {noised:,} entries: {_percent(noised, total)} of"
            " the parameters"
        ),
        "--scope all": (
            f"adds {', '.join(role.replace('_', ' ') for role in layout.outside)}:"
            f" {_percent(noised + outside, total)}"
        ),
    }
    told["client trains"] = (
        f"all but {', '.join(layout.frozen)}: rows that moved would spell out the forget set's"
        " tokens"
    )
    rows = [
        (one.name, f"{understood.entries(one.tensors):,}", _times(len(one.tensors)) + one.why)
        for one in exact
    ]
    if "head" in understood.family.outside and "head" not in layout.outside:
        rows.append(
            (
                f"{understood.family.outside['head']}.weight",
                "–",
                "not on disk: tied to the embedding",
            )
        )
    return [
        facts(told),
        "",
        _unbroken(table("left exact", "entries", "why", rows=rows), "left exact"),
    ]


def _times(tensors: int) -> str:
    return f"{tensors} tensors: " if tensors > 2 else ""


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %" if part < whole else "100 %"


def detail(understood: Understood) -> dict[str, Any]:
    """The model for a program: every slot of every layer."""
    layout = understood.layout
    noised = understood.entries(understood.noised)
    return {
        "model_type": understood.model.config.get("model_type"),
        "family": layout.family,
        "parameters": understood.model.elements,
        "tensors": len(understood.model.tensors),
        "dtype": understood.model.dtype,
        "transforms": {name: status.kind for name, status in understood.statuses.items()},
        "reparameterizations": {
            name: _listed(understood.uses(name)) for name in REPARAMETERIZATIONS
        },
        "noised": {
            "tensors": len(understood.noised),
            "entries": noised,
            "share": noised / understood.model.elements,
        },
        "outside": {role: list(names) for role, names in layout.outside.items()},
        "left_exact": {name: one.why for one in understood.left_exact() for name in one.tensors},
        "frozen": list(layout.frozen),
        "layers": [_layer(understood, layer) for layer in layout.layers],
    }


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _layer(understood: Understood, layer: LayerLayout) -> dict[str, Any]:
    def told(role: str, slot: Slot) -> dict[str, Any]:
        return {
            "tensor": slot.tensor,
            "axis": slot.axis,
            "size": slot.size,
            "index_shape": list(slot.index.shape),
            "positions": understood.reader.positions(slot),
            "parts": parts(role, slot.index),
        }

    experts: dict[str, Any] | None = None
    if layer.experts is not None:
        mine = [
            (role, slot) for role, slot in slots_by_role(layer) if role in {"router", "experts"}
        ]
        experts = {
            "count": layer.experts.count,
            "groups": layer.experts.groups,
            "parts": expert_parts(layer.experts),
            **{
                name: [told(role, slot) for role, slot in mine if role == name]
                for name in ("router", "experts")
            },
            "tensors": [list(names) for names in layer.experts.tensors],
        }
    return {
        "index": layer.index,
        "rope_planes": layer.planes.tolist(),
        "slots": {
            role: [told(role, slot) for slot in slots] for role, slots in layer.slots.items()
        },
        "head_tensors": {role: list(names) for role, names in layer.head_tensors.items()},
        "ffns": [
            {role: [told(role, slot) for slot in slots] for role, slots in ffn.items()}
            for ffn in layer.ffns
        ],
        "experts": experts,
        "transforms": [
            name for name in understood.statuses if layer.index in understood.acting(name)
        ],
        "noised": list(layer.noised),
        "left_alone": {name: understood.layout.left_alone[name] for name in layer.untouched},
    }
