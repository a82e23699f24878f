"""The output of `mpu inspect MODEL`: layers, transforms and noise, as text and as JSON.

Never imports torch: it uses the layout and the headers of safetensors files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from mpu_cli.architectures.family import Family
from mpu_cli.architectures.layout import LayerLayout, ModelLayout, Slot
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.cli.inspect_layers import ROLES, LayoutReader, slots_by_role
from mpu_cli.cli.inspect_text import braced, expert_parts, parts, ranges
from mpu_cli.cli.output import facts, table
from mpu_cli.errors import UsageError
from mpu_cli.server.transforms import REPARAMETERIZATIONS, load
from mpu_cli.server.transforms.choice import chosen, statuses

OUTSIDE = "outside the decoder layers: no noise without --scope all"
_VALIDITY = {
    "valid": "keeps the function",
    "invalid": "would change the function",
    "none": "has nothing to act on",
}


@dataclass(frozen=True, slots=True)
class LeftExact:
    """Tensors that get no noise with --scope layers, and the reason."""

    name: str
    """The name of a tensor, of a weight with its bias, or a glob pattern."""
    tensors: tuple[str, ...]
    why: str


class ModelReport:
    """A checkpoint with its layout and its family file."""

    def __init__(self, model: Checkpoint, layout: ModelLayout, family: Family) -> None:
        self.model, self.layout, self.family = model, layout, family
        prefixes = {
            layer.index: family.layers.format(i=layer.index) + "." for layer in layout.layers
        }
        self.reader = LayoutReader(model.tensors, prefixes)
        self.noised = [name for layer in layout.layers for name in layer.noised]
        self.statuses = statuses(layout)

    def view(self) -> list[RenderableType]:
        """The text: facts, one table for each group of layers, transforms, noise."""
        model, layout = self.model, self.layout
        summary = {
            "kind": f"model: {model.config.get('model_type')} (family file {layout.family}.yaml)",
            "size": f"{model.elements:,} parameters in {len(layout.layers)} layers, {model.dtype}",
        }
        prefix = self.family.layers.replace("{i}", "*") + "."
        body: list[RenderableType] = [
            facts(summary),
            "",
            f"Layers: the content of each axis of {prefix}…",
        ]
        for group in self.reader.groups(layout.layers):
            word = "layer" if len(group.layers) == 1 else "layers"
            body += ["", f"{word} {ranges(group.layers)}: {group.about}"]
            previous, rows = "", []
            for row in group.rows:
                role = "" if row.role == previous else ROLES[row.role]
                rows.append((role, row.tensor, row.axis, row.positions, row.parts))
                previous = row.role
            columns = ("role", "tensor", "axis", "positions", "parts")
            body.append(_unbroken(table(*columns, rows=rows), "tensor"))
        return [*body, "", self._transforms(), "", *self._noise()]

    def content(self) -> dict[str, Any]:
        """The JSON: every slot of every layer."""
        layout, noised = self.layout, self._entries(self.noised)
        users = {name: self._uses(name) for name in REPARAMETERIZATIONS}
        return {
            "model_type": self.model.config.get("model_type"),
            "family": layout.family,
            "parameters": self.model.elements,
            "tensors": len(self.model.tensors),
            "dtype": self.model.dtype,
            "transforms": {name: status.kind for name, status in self.statuses.items()},
            "reparameterizations": {
                name: None if names is None else list(names) for name, names in users.items()
            },
            "noised": {
                "tensors": len(self.noised),
                "entries": noised,
                "share": noised / self.model.elements,
            },
            "outside": {role: list(names) for role, names in layout.outside.items()},
            "left_exact": {name: left.why for left in self._left_exact() for name in left.tensors},
            "frozen": list(layout.frozen),
            "layers": [self._layer(layer) for layer in layout.layers],
        }

    def _entries(self, names: Iterable[str]) -> int:
        """The number of entries of these tensors."""
        return sum(self.model.tensors[name].elements for name in names)

    def _uses(self, reparameterization: str) -> tuple[str, ...] | None:
        """The transforms of a --reparam; None if this model cannot use it."""
        try:
            return chosen(reparameterization, self.layout)
        except UsageError:
            return None

    def _left_exact(self) -> list[LeftExact]:
        """Tensors outside the layers by role, then those that the family file leaves exact."""
        left = []
        for names in self.layout.outside.values():
            stems, endings = zip(*(name.rpartition(".")[::2] for name in names), strict=True)
            left.append(LeftExact(f"{stems[0]}.{braced(endings)}", names, OUTSIDE))
        for pattern, reason in self.family.left_alone.items():
            names = tuple(name for name in self.model.tensors if fnmatchcase(name, pattern))
            if names:
                left.append(LeftExact(names[0] if len(names) == 1 else pattern, names, reason))
        return left

    def _acting(self, name: str) -> list[int]:
        """The layers that a valid transform changes."""
        if self.statuses[name].kind != "valid":
            return []
        role = load(name).ACTS_ON
        return [layer.index for layer in self.layout.layers if role in layer.roles]

    def _transforms(self) -> RenderableType:
        rows = []
        users = {name: self._uses(name) for name in REPARAMETERIZATIONS}
        for name, status in self.statuses.items():
            because = f": {status.reason}" if status.reason else ""
            layers = self._acting(name)
            where = "–"
            if status.kind == "valid":
                everywhere = len(layers) == len(self.layout.layers)
                where = "every layer" if everywhere else _layers(layers)
            used = ", ".join(user for user, names in users.items() if names and name in names)
            rows.append((name, _VALIDITY[status.kind] + because, where, used or "–"))
        refused = [user for user, names in users.items() if names is None]
        rows += [
            (f"--reparam {user}", "refused: it would change the function", "–", "–")
            for user in refused
        ]
        columns = ("transform", "in this model", "acts on", "used by --reparam")
        return _unbroken(table(*columns, rows=rows), "transform")

    def _noise(self) -> list[RenderableType]:
        layout, total = self.layout, self.model.elements
        noised = self._entries(self.noised)
        outside = self._entries(name for names in layout.outside.values() for name in names)
        roles = ", ".join(role.replace("_", " ") for role in layout.outside)
        summary = {
            "gets noise": (
                f"{len(self.noised)} tensors, {noised:,} entries: {_percent(noised, total)} of the"
                " parameters"
            ),
            "--scope all": f"adds {roles}: {_percent(noised + outside, total)}",
            "client trains": (
                f"all but {', '.join(layout.frozen)}: changed rows would reveal the tokens of the"
                " forget set"
            ),
        }
        rows = [
            (left.name, f"{self._entries(left.tensors):,}", _times(len(left.tensors)) + left.why)
            for left in self._left_exact()
        ]
        if "head" in self.family.outside and "head" not in layout.outside:
            head = f"{self.family.outside['head']}.weight"
            rows.append((head, "–", "not on disk: tied to the embedding"))
        exact = _unbroken(table("left exact", "entries", "why", rows=rows), "left exact")
        return [facts(summary), "", exact]

    def _layer(self, layer: LayerLayout) -> dict[str, Any]:
        experts: dict[str, Any] | None = None
        if layer.experts is not None:
            slots = list(slots_by_role(layer))
            experts = {
                "count": layer.experts.count,
                "groups": layer.experts.groups,
                "parts": expert_parts(layer.experts),
                **{
                    name: [self._slot(role, slot) for role, slot in slots if role == name]
                    for name in ("router", "experts")
                },
                "tensors": [list(names) for names in layer.experts.tensors],
            }
        return {
            "index": layer.index,
            "rope_planes": layer.planes.tolist(),
            "slots": self._slots(layer.slots),
            "head_tensors": {role: list(names) for role, names in layer.head_tensors.items()},
            "ffns": [self._slots(ffn) for ffn in layer.ffns],
            "experts": experts,
            "transforms": [name for name in self.statuses if layer.index in self._acting(name)],
            "noised": list(layer.noised),
            "left_alone": {name: self.layout.left_alone[name] for name in layer.untouched},
        }

    def _slots(self, by_role: Mapping[str, Sequence[Slot]]) -> dict[str, list[dict[str, Any]]]:
        return {role: [self._slot(role, slot) for slot in slots] for role, slots in by_role.items()}

    def _slot(self, role: str, slot: Slot) -> dict[str, Any]:
        return {
            "tensor": slot.tensor,
            "axis": slot.axis,
            "size": slot.size,
            "index_shape": list(slot.index.shape),
            "positions": self.reader.positions(slot),
            "parts": parts(role, slot.index),
        }


def _unbroken(columns: Table, header: str) -> Table:
    """Let a table wrap other columns first: users copy the names in this one."""
    next(column for column in columns.columns if column.header == header).no_wrap = True
    return columns


def _layers(numbers: Sequence[int]) -> str:
    return f"layer{'s' if len(numbers) > 1 else ''} {ranges(numbers)}" if numbers else "no layer"


def _times(tensors: int) -> str:
    return f"{tensors} tensors: " if tensors > 2 else ""


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %" if part < whole else "100 %"
