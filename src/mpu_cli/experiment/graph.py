"""From a plan to its graph: every cell, seed and draw becomes a chain of steps.

Equal steps of different runs are one step, so that for instance all methods unlearn on the same
handoff in round 1, and a noise-free run serves every size of the noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mpu_cli.experiment.labels import axes_of, label, variant_of
from mpu_cli.experiment.plan.cells import Cell, cells
from mpu_cli.experiment.plan.check import Checker
from mpu_cli.experiment.plan.commands import Commands
from mpu_cli.experiment.plan.files import Files, unopened
from mpu_cli.experiment.plan.read_grid import MAX_RUNS
from mpu_cli.experiment.plan.schema import ExperimentPlan
from mpu_cli.experiment.plan.unused import unused
from mpu_cli.experiment.round_steps import (
    HANDOFF,
    MODEL,
    PLAIN,
    RECORD,
    SECRET,
    UPDATE,
    StepMaker,
)
from mpu_cli.experiment.runs import Experiment, ExperimentRun, RoundResults
from mpu_cli.experiment.step import Graph, Result, Step, Word
from mpu_cli.experiment.step_set import StepSet, free_name

_ALL = ("perturb", "unlearn", "aggregate")


def build(plan: ExperimentPlan, commands: Commands) -> Experiment:
    """The steps and the runs of a plan, all checked; nothing is run.

    Raises:
        UsageError: a command refuses its options, a method's rows are missing, or there are too
            many steps.
        BadInputError: a model or a file of rows is missing.
    """
    chosen, checker = list(cells(plan)), Checker(plan, commands)
    for cell in chosen:
        checker.check(cell)
    chosen = [checker.with_own_rows(cell) for cell in chosen]
    # Once without opening a file, so that what is wrong with the plan itself is said first.
    once = [replace(cell, seeds=cell.seeds[:1], draws=1) for cell in chosen]
    _assembly(plan, checker, StepMaker(plan, commands, unopened)).experiment(once)
    files = Files(plan)
    files.find("model", plan.model)
    for cell in chosen:
        checker.check_alternates(cell, files.find("rows", cell.split.train["forget"]))
    experiment = _assembly(plan, checker, StepMaker(plan, commands, files.find)).experiment(chosen)
    return replace(experiment, warnings=tuple(unused(plan, chosen)))


def _assembly(plan: ExperimentPlan, checker: Checker, make: StepMaker) -> _Assembly:
    return _Assembly(plan, checker, make, StepSet(MAX_RUNS, plan.document.name))


@dataclass(frozen=True, slots=True)
class _Assembly:
    """Collects the steps and runs of a plan."""

    plan: ExperimentPlan
    checker: Checker
    make: StepMaker
    steps: StepSet
    runs: dict[str, ExperimentRun] = field(default_factory=dict)
    _noise_free: dict[tuple[str, ...], str] = field(default_factory=dict)
    """The name of each noise-free run by the steps that measure it."""
    _plain: dict[tuple[str, int], list[Result]] = field(default_factory=dict)
    """The models of plain unlearning, by the settings that they depend on and the seed."""
    _measured: set[str] = field(default_factory=set)
    """The evaluations of untouched models."""

    def experiment(self, chosen: list[Cell]) -> Experiment:
        """All runs: the untouched models, the noise-free runs, and those on perturbed copies."""
        for cell in chosen:
            self._untouched(cell)
        for cell in chosen if self.plan.baseline else ():
            for seed in cell.seeds:
                self._noise_free_run(cell, seed)
        for cell in chosen:
            for seed in cell.seeds:
                for draw in range(1, cell.draws + 1):
                    self._mpu_run(cell, seed, draw)
        return Experiment(self.plan, Graph(self.steps.steps), tuple(self.runs.values()))

    def _untouched(self, cell: Cell) -> None:
        where = f" data={cell.split.name}" if len(self.plan.splits) > 1 else ""
        record = self._retain_record(cell)
        step = self._add(
            self.make.eval(cell, self.make.model, record, record=False), f"before{where}"
        )
        found = [("before", step)]
        if record is not None:
            found.append(("retain-model", record.step))
        for kind, evaluated in found:
            if evaluated not in self._measured:
                self._measured.add(evaluated)
                self._add_run(
                    ExperimentRun(
                        name=evaluated.removesuffix(" / eval"),
                        kind=kind,  # type: ignore[arg-type]
                        data=cell.split.name,
                        axes={},
                        settings={},
                        rounds=(RoundResults(number=0, eval=evaluated),),
                    )
                )

    def _retain_record(self, cell: Cell) -> Result | None:
        """The record of the model that never saw the forget set."""
        text = cell.split.retain_model
        if text is None:
            return None
        where = f" data={cell.split.name}" if len(self.plan.splits) > 1 else ""
        model = self.make.find("model", text, "")
        step = self.make.eval(cell, model, None, record=True)
        return Result(self._add(step, f"retain-model{where}"), RECORD)

    def _noise_free_run(self, cell: Cell, seed: int) -> None:
        named = f"{label(cell, ('unlearn',))} seed={seed} noise-free"
        models = self._plain_models(cell, seed)
        rounds = [
            RoundResults(number=number, eval=self._eval(cell, model, f"{named} / round {number}"))
            for number, model in enumerate(models, 1)
        ]
        content = tuple(item.eval for item in rounds)
        if content in self._noise_free:
            return
        name = free_name(named, self.runs)
        self._noise_free[content] = name
        if len(cell.seeds) > 1:
            other = cell.seeds[(cell.seeds.index(seed) + 1) % len(cell.seeds)]
            compared = self.make.error(self._plain_models(cell, other)[-1], models[-1])
            rounds[-1] = replace(rounds[-1], error=self._add(compared, f"{named} / another order"))
        self._add_run(
            ExperimentRun(
                name=name,
                kind="noise-free",
                data=cell.split.name,
                method=cell.method,
                variant=variant_of(cell),
                axes=axes_of(cell, ("unlearn",)),
                seed=seed,
                settings=self.checker.training_settings(cell),
                rounds=tuple(rounds),
            )
        )

    def _plain_models(self, cell: Cell, seed: int) -> list[Result]:
        """The model of each round of plain unlearning."""
        options = sorted(cell.given("unlearn").items())
        settings = repr((cell.method, cell.split.name, cell.rounds, options))
        if (settings, seed) in self._plain:
            return self._plain[settings, seed]
        named = f"{label(cell, ('unlearn',))} seed={seed} noise-free"
        model: Word = self.make.model
        results: list[Result] = []
        for number in range(1, cell.rounds + 1):
            reference = self._reference(cell, None)
            step = self.make.unlearn_model(cell, seed, number, model, reference)
            model = Result(self._add(step, f"{named} / round {number} / unlearn"), PLAIN)
            results.append(model)
        self._plain[settings, seed] = results
        return results

    def _mpu_run(self, cell: Cell, seed: int, draw: int) -> None:
        which = f"seed={seed}" + (f" draw={draw}" if cell.draws > 1 else "")
        name = f"{label(cell, _ALL)} {which}"
        if name in self.runs:
            return  # two grids of the plan have this run
        plain = self._plain_models(cell, seed) if self.plan.baseline else []
        model: Word = self.make.model
        secret: Result | None = None
        rounds: list[RoundResults] = []
        firsts: list[Result] = []
        audit = None
        for number in range(1, cell.rounds + 1):
            here = f"{name} / round {number}"
            step = self.make.perturb(cell, f"seed={seed} draw={draw}", number, model, secret)
            shared = f"{label(cell, ('perturb',), method=False)} {which} / round 1"
            perturb = self._add(step, f"{shared if number == 1 else here} / perturb".strip())
            handoffs = self._handoffs(cell, perturb)
            if number == 1:
                firsts = handoffs
                audit = self._audit(cell, handoffs, perturb, shared)
            updates = self._updates(cell, seed, number, handoffs, firsts, here)
            combined = self.make.aggregate(cell, updates, model, Result(perturb, SECRET))
            aggregate = self._add(combined, f"{here} / aggregate")
            model, secret = Result(aggregate, MODEL), Result(aggregate, SECRET)
            error = None
            if plain:
                compared = self.make.error(model, plain[number - 1])
                error = self._add(compared, f"{here} / error")
            evaluated = self._eval(cell, model, here)
            rounds.append(
                RoundResults(number=number, eval=evaluated, aggregate=aggregate, error=error)
            )
        self._add_run(
            ExperimentRun(
                name=name,
                kind="mpu",
                data=cell.split.name,
                method=cell.method,
                variant=variant_of(cell),
                axes=axes_of(cell, _ALL),
                seed=seed,
                draw=draw,
                settings=self.checker.settings(cell),
                rounds=tuple(rounds),
                audit=audit,
                baseline=self._baseline(cell, plain),
            )
        )

    def _updates(
        self,
        cell: Cell,
        seed: int,
        number: int,
        handoffs: list[Result],
        firsts: list[Result],
        here: str,
    ) -> list[Word]:
        """The update to each handoff of a round."""
        updates: list[Word] = []
        for holder, (handoff, first) in enumerate(zip(handoffs, firsts, strict=True), 1):
            step = self.make.unlearn(cell, seed, number, handoff, self._reference(cell, first))
            of = f" holder {holder}" if len(handoffs) > 1 else ""
            updates.append(Result(self._add(step, f"{here} / unlearn{of}"), UPDATE))
        return updates

    def _handoffs(self, cell: Cell, perturb: str) -> list[Result]:
        """What `perturb` published: one handoff, or one for each holder."""
        if cell.value("perturb", "split") is not True:
            return [Result(perturb, HANDOFF)]
        copies = self.checker.settings(cell)["copies"]
        assert isinstance(copies, int)
        return [Result(perturb, f"{HANDOFF}/holder-{n + 1}") for n in range(copies)]

    def _reference(self, cell: Cell, first_handoff: Word | None) -> Word | None:
        given = cell.given("unlearn").get("reference")
        if given is None or ("methods" not in given.keys and not self.checker.uses_reference(cell)):
            return None  # the plan's reference is for the methods that have one
        return self.make.reference(cell, first_handoff)

    def _audit(self, cell: Cell, handoffs: list[Result], perturb: str, here: str) -> str | None:
        if not self.plan.audits:
            return None
        return self._add(
            self.make.audit(cell, handoffs, Result(perturb, SECRET)), f"{here} / audit".strip()
        )

    def _eval(self, cell: Cell, model: Word, here: str) -> str:
        step = self.make.eval(cell, model, self._retain_record(cell), record=False)
        return self._add(step, f"{here} / eval")

    def _baseline(self, cell: Cell, plain: list[Result]) -> str | None:
        """The noise-free run whose models these are."""
        if not plain:
            return None
        found = tuple(self._eval(cell, model, "") for model in plain)
        return self._noise_free.get(found)

    def _add(self, step: Step, name: str) -> str:
        return self.steps.add(step, name)

    def _add_run(self, run: ExperimentRun) -> None:
        name = free_name(run.name, self.runs)
        self.runs[name] = replace(run, name=name)
