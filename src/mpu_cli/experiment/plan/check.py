"""Check the cells of a plan before anything runs: every command line by the command's own parser.

What a command finds out only from its files (a row that cannot be read, a damaged model) is found
when it runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mpu_cli.client import methods, preset
from mpu_cli.client.methods import MethodInfo
from mpu_cli.data.mapping import parse_mapping
from mpu_cli.data.rows import read_rows
from mpu_cli.errors import UsageError
from mpu_cli.experiment.plan.cells import Cell
from mpu_cli.experiment.plan.commands import WORDS, Commands, Section
from mpu_cli.experiment.plan.schema import ExperimentPlan, Given, Value
from mpu_cli.experiment.plan.values import option_words
from mpu_cli.experiment.step import Source

_FIXED: Mapping[Section, tuple[str, ...]] = {
    "perturb": ("model", "--handoff", "handoff", "--new-lineage", "secret"),
    "unlearn": ("handoff", "--out", "update", "--seed", "0"),
    "aggregate": ("update", "--secret", "secret", "--model", "model", "--out", "next"),
    "eval": ("model",),
    "audit": ("handoff", "--secret", "secret", "--model", "model"),
}
"""Stand for the arguments that the experiment gives to the command of each section."""
_FROM_PERTURB = ("kappa", "copies", "offset", "denoising", "reparam")


class Checker:
    """Checks the cells of one plan."""

    def __init__(self, plan: ExperimentPlan, commands: Commands) -> None:
        self._plan, self._commands = plan, commands
        self._parsed: dict[tuple[str, ...], Mapping[str, Any]] = {}
        self._methods = {info.name: info for info in methods.describe()}

    def check(self, cell: Cell) -> None:
        """Check all command lines of a cell, and what its method needs.

        Raises:
            UsageError: an option is out of range or contradicts another, or the method's rows are
                missing from the split.
        """
        sections: list[Section] = ["perturb", "unlearn", "aggregate", "eval"]
        for section in (*sections, *(("audit",) if self._plan.audits else ())):
            self._effective(cell, section)
        method = self._methods[cell.method]
        parameters = self._method_parameters(cell, method)
        roles = cell.split.train
        if "retain" in method.inputs_with(parameters) and "retain" not in roles:
            raise self._plan.document.wrong(
                cell.split.keys, f"{cell.method} needs a retain set", "add retain: FILE"
            )
        needs_reference = bool(method.references_with(parameters))
        is_paper = cell.value("unlearn", "preset") == "paper"
        has_reference = cell.value("unlearn", "reference") is not None
        if is_paper and cell.rounds > 1 and needs_reference and not has_reference:
            raise self._plan.document.wrong(
                ("unlearn", "preset"),
                f"{cell.method} compares with the model before round 1",
                'add reference: "{first_handoff}", or reference: "{model}"',
            )

    def check_alternates(self, cell: Cell, forget: Source) -> None:
        """Read the forget rows if the method needs an alternate answer in each.

        Raises:
            UsageError: a row has none, and the split has no refusals.
        """
        if not self.needs_alternates(cell) or "refusals" in cell.split.train:
            return
        columns = cell.value("unlearn", "map")
        mapping = (
            parse_mapping([str(text) for text in columns]) if isinstance(columns, tuple) else {}
        )
        rows = read_rows(forget.path, mapping)
        if any(row.alternate is None for row in rows):
            raise self._plan.document.wrong(
                cell.split.keys,
                f"{cell.method} needs an alternate answer to each forget row",
                "add refusals: FILE, or give each row an 'alternate' answer",
            )

    def settings(self, cell: Cell) -> dict[str, Value]:
        """The noise and the optimizer in effect."""
        perturb = self._effective(cell, "perturb")
        found: dict[str, Value] = {}
        for name in _FROM_PERTURB:
            given = cell.value("perturb", name)
            found[name] = given if isinstance(given, str) else perturb[name]
        found["offset"] = 0.0 if found["offset"] is None else found["offset"]
        return found | self.training_settings(cell)

    def training_settings(self, cell: Cell) -> dict[str, Value]:
        """The optimizer in effect."""
        return {"optimizer": self._effective(cell, "unlearn")["optimizer"]}

    def needs_alternates(self, cell: Cell) -> bool:
        """Whether the cell's method needs an alternate answer for each forget row."""
        method = self._methods[cell.method]
        return "alternate" in method.inputs_with(self._method_parameters(cell, method))

    def with_own_rows(self, cell: Cell) -> Cell:
        """The cell without rows that its method has no use for, which `unlearn` refuses."""
        method = self._methods[cell.method]
        inputs = method.inputs_with(self._method_parameters(cell, method))
        uses = {"refusals": "alternate" in inputs, "unanswerable": "direction" in inputs}
        train = {role: file for role, file in cell.split.train.items() if uses.get(role, True)}
        return replace(cell, split=replace(cell.split, train=train))

    def uses_reference(self, cell: Cell) -> bool:
        """Whether the cell's method compares with a reference model."""
        method = self._methods[cell.method]
        return bool(method.references_with(self._method_parameters(cell, method)))

    def _method_parameters(self, cell: Cell, method: MethodInfo) -> Mapping[str, Any]:
        value = cell.value("unlearn", "set")
        assignments: Sequence[str] = (
            [str(text) for text in value] if isinstance(value, tuple) else []
        )
        try:
            if cell.value("unlearn", "preset") == "paper":
                assignments = preset.paper(method, assignments)[1]
            return method.parse(assignments)
        except UsageError as error:
            raise self._located(cell, "unlearn", error) from error

    def _effective(self, cell: Cell, section: Section) -> Mapping[str, Any]:
        """The values in effect for the command of a section.

        Raises:
            UsageError: the command refuses its options.
        """
        words = [*WORDS[section], *_FIXED[section]]
        if section == "unlearn":
            words += ["--method", cell.method, "--round", "1"]
            train = self.with_own_rows(cell).split.train
            words += [word for role in train for word in (f"--{role}", role)]
        if section == "perturb" and self._plan.base is not None:
            words += ["--base", "base"]
        for name, given in sorted(cell.given(section).items()):
            words += option_words(self._commands.options[section][name], given.value)
        line = tuple(words)
        if line not in self._parsed:
            try:
                self._parsed[line] = self._commands.parse(line)
            except UsageError as error:
                raise self._located(cell, section, error) from error
        return self._parsed[line]

    def _located(self, cell: Cell, section: Section, error: UsageError) -> UsageError:
        """The error of a command line, with the place of the option that it begins with."""
        flags: dict[str, Given] = {
            self._commands.options[section][name].flag: given
            for name, given in cell.given(section).items()
        }
        word = error.message.replace(":", " ").split(" ", 1)[0]
        command = f"mpu {' '.join(WORDS[section])}: {error.message}"
        if word in flags:
            return self._plan.document.wrong(flags[word].keys, command, error.hint)
        mentioned = [given for flag, given in flags.items() if flag in error.message]
        keys = mentioned[0].keys if mentioned else (section,)
        return self._plan.document.wrong(keys, f"{cell.method}: {command}", error.hint)
