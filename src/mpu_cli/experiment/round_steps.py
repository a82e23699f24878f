"""The steps of one round: perturb, unlearn, aggregate, and the measurements of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mpu_cli.experiment.plan.cells import Cell
from mpu_cli.experiment.plan.commands import WORDS, Commands, Section
from mpu_cli.experiment.plan.files import FileKind
from mpu_cli.experiment.plan.read_splits import location
from mpu_cli.experiment.plan.schema import ExperimentPlan, Value
from mpu_cli.experiment.plan.values import option_words
from mpu_cli.experiment.step import Own, Result, Source, Step, Word

HANDOFF, SECRET, UPDATE, MODEL, PLAIN = (
    "handoff",
    "server/secret",
    "update",
    "server/model",
    "model",
)
RECORD = "record"
Find = Callable[[FileKind, str, str], Source]
_OPEN_GATES = {"min_agreement": "-1.0", "max_copy_ratio": "inf", "max_agreement_drop": "inf"}
"""Copies with much noise agree little; their error is what an experiment asks for, no refusal."""
_FILES: Mapping[str, FileKind] = {"MODEL": "model", "FILE": "rows"}
"""Options that name a model or a file, by their metavar."""


@dataclass(frozen=True, slots=True)
class StepMaker:
    """Makes the steps of a plan; their names are given later."""

    plan: ExperimentPlan
    commands: Commands
    find: Find

    @property
    def model(self) -> Source:
        """θ, the model before the first round."""
        return self.find("model", self.plan.model, "")

    def perturb(
        self, cell: Cell, draw: str, round_number: int, model: Word, secret: Result | None
    ) -> Step:
        """Publish copies; `secret` is the lineage's after the last round."""
        where: list[Word] = ["--secret" if secret else "--new-lineage", Own(SECRET)]
        return self._step(
            "perturb",
            "server",
            [
                model,
                *self._base(),
                "--handoff",
                Own(HANDOFF),
                *where,
                *self.options(cell, "perturb"),
            ],
            outputs=(HANDOFF, SECRET),
            copied={SECRET: secret} if secret else {},
            draw=f"{draw} round={round_number}",
        )

    def unlearn(
        self, cell: Cell, seed: int, round_number: int, handoff: Word, reference: Word | None
    ) -> Step:
        """Train every copy of a handoff."""
        return self._train(cell, seed, round_number, handoff, reference, UPDATE)

    def unlearn_model(
        self, cell: Cell, seed: int, round_number: int, model: Word, reference: Word | None
    ) -> Step:
        """Train the model itself: the noise-free run."""
        # A model has no copies whose orders could differ.
        unlearn = {
            name: given for name, given in cell.given("unlearn").items() if name != "order_per_copy"
        }
        alone = replace(cell, options={**cell.options, "unlearn": unlearn})
        return self._train(alone, seed, round_number, model, reference, PLAIN)

    def aggregate(self, cell: Cell, updates: Sequence[Word], model: Word, secret: Result) -> Step:
        """Combine the updates of a round."""
        options = self.options(cell, "aggregate")
        for name, open_gate in _OPEN_GATES.items():
            if cell.value("aggregate", name) is None:
                options = [f"--{name.replace('_', '-')}", open_gate, *options]
        return self._step(
            "aggregate",
            "server",
            [*updates, "--secret", Own(SECRET), "--model", model, "--out", Own(MODEL), *options],
            outputs=(MODEL, SECRET),
            copied={SECRET: secret},
        )

    def eval(self, cell: Cell, model: Word, retain_record: Word | None, *, record: bool) -> Step:
        """Measure a model on the split's rows; `record` keeps the numbers of each row."""
        words: list[Word] = [model]
        for role, files in cell.split.measured.items():
            for file in files:
                name, equals, rest = file.partition("=")
                named = bool(equals) and name.isidentifier()
                if role == "utility" and not named:
                    name, rest, named = Path(file).stem, file, True
                prefix = f"{name}=" if named else ""
                words += [f"--{role.replace('_', '-')}"]
                words += [self.find("rows", rest if named else file, prefix)]
        if retain_record is not None:
            words += ["--retain-record", retain_record]
        if record:
            words += ["--record", Own(RECORD)]
        words += self.options(cell, "eval")
        return self._step("eval", "observer", words, outputs=(RECORD,) if record else ())

    def error(self, model: Word, plain: Word) -> Step:
        """‖model − plain‖ / ‖plain − θ‖."""
        return Step(
            name="",
            kind="error",
            party="observer",
            program="mpu_cli.experiment.update_error",
            words=(self.model, plain, model),
            outputs=(),
        )

    def audit(self, cell: Cell, handoffs: Sequence[Result], secret: Result) -> Step:
        """Attack the copies of the first round."""
        words = [*handoffs, "--secret", Own(SECRET), "--model", self.model, *self._base()]
        options = self.options(cell, "audit")
        return self._step(
            "audit", "observer", [*words, *options], outputs=(), copied={SECRET: secret}
        )

    def options(self, cell: Cell, section: Section) -> list[Word]:
        """The options of a section, in one order."""
        words: list[Word] = []
        for name, given in sorted(cell.given(section).items()):
            declared = self.commands.options[section][name]
            kind = _FILES.get(declared.option.metavar or "")
            if name == "reference" and section == "unlearn":
                continue  # what it stands for differs between the runs of a cell
            if kind is not None and given.value is not None:
                file = self._file(kind, given.value, given.keys)
                words += [declared.flag, file]
            else:
                words += option_words(declared, given.value)
        return words

    def reference(self, cell: Cell, first_handoff: Word | None) -> Word | None:
        """The reference model that the client is given.

        Args:
            cell: whose options say it.
            first_handoff: what the client got in round 1; None for the noise-free run.
        """
        value = cell.value("unlearn", "reference")
        if value is None:
            return None
        if value == "{first_handoff}":
            return first_handoff or self.model
        return self._file("model", value, cell.given("unlearn")["reference"].keys)

    def _file(self, kind: FileKind, value: Value, keys: tuple[str | int, ...]) -> Source:
        if value == "{model}":
            return self.model
        if value == "{base}" and self.plan.base is not None:
            return self.find("model", self.plan.base, "")
        document = self.plan.document
        if isinstance(value, str) and value.startswith("{"):
            known = "{model}, {first_handoff}" + (", {base}" if self.plan.base else "")
            raise document.wrong(keys, f"unknown placeholder {value}", f"known: {known}")
        return self.find(kind, location(document, keys, value, self.plan.directory), "")

    def _train(
        self,
        cell: Cell,
        seed: int,
        round_number: int,
        source: Word,
        reference: Word | None,
        out: str,
    ) -> Step:
        words: list[Word] = [source]
        for role, file in cell.split.train.items():
            words += [f"--{role}", self.find("rows", file, "")]
        words += ["--method", cell.method, "--seed", str(seed), "--round", str(round_number)]
        if reference is not None:
            words += ["--reference", reference]
        words += [*self.options(cell, "unlearn"), "--out", Own(out)]
        return self._step("unlearn", "client", words, outputs=(out,), resume=("--resume",))

    def _base(self) -> list[Word]:
        base = self.plan.base
        return [] if base is None else ["--base", self.find("model", base, "")]

    def _step(
        self,
        section: Section,
        party: str,
        words: Sequence[Word],
        *,
        outputs: tuple[str, ...],
        copied: Mapping[str, Result] | None = None,
        draw: str | None = None,
        resume: tuple[str, ...] = (),
    ) -> Step:
        return Step(
            name="",
            kind=section,
            party=party,  # type: ignore[arg-type]
            words=(*WORDS[section], *words, "--json"),
            outputs=outputs,
            copied=copied or {},
            draw=draw,
            resume=resume,
        )
