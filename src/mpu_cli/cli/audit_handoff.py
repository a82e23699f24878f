"""`mpu audit handoff`: what holders of handoffs can learn of the model (server)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.audit.gates import GateSettings, require_names
from mpu_cli.cli.archives import unpacked
from mpu_cli.cli.audit_handoff_tables import (
    behaviour_lines,
    left_out,
    not_run,
    ran_data,
    smallest_ratio,
    three_numbers,
    update_data,
    update_lines,
)
from mpu_cli.cli.audit_page import PageSettings
from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.gated import print_gated
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import command as command_line
from mpu_cli.cli.next_steps import path
from mpu_cli.cli.options import SECRET, use_one_thread
from mpu_cli.cli.output import Output, facts, share, table, unknown
from mpu_cli.documentation import page
from mpu_cli.errors import CheckFailedError, UsageError
from mpu_cli.option import REQUIRED, option

if TYPE_CHECKING:
    from mpu_cli.audit.handoff.audit import HandoffAudit
    from mpu_cli.audit.handoff.left_out import NotAttacked
    from mpu_cli.audit.handoff.run_models import Runs

GUIDE = Guide(
    "server",
    "Attack handoffs as their holders could (mpu audit handoff).",
    (
        "mpu audit handoff to-client --secret server --model model --base base",
        "mpu audit handoff to-client --secret server --model model --layers all --json",
    ),
)


NUMBERS = ("one_copy", "all_copies", "exact", "of_stated", "behaviour")
"""What a condition of `--fail-if` may name."""


def layer_count(text: str) -> int:
    """Read the value of --layers; 0 stands for all.

    Raises:
        UsageError: it is neither `all` nor a whole number above 0.
    """
    if str(text).strip().lower() == "all":
        return 0
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise UsageError(f"--layers {text}: expected a whole number, at least 1, or all")
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditHandoffOptions(Job):
    """What `mpu audit handoff` was asked to do."""

    handoffs: tuple[Path, ...] = option(
        REQUIRED,
        "Handoffs that one party, or several together, may hold: directories or tar files.",
        panel="Model",
        flag="HANDOFFS",
        metavar="HANDOFF…",
        repeated=True,
    )
    secret: Path = option(
        REQUIRED,
        "Directory of the lineage's secret, which says what perturb stated.",
        metavar="DIR",
        environment=SECRET,
    )
    model: tuple[str, ...] = option(
        REQUIRED,
        "Model that a handoff was made from, for the scores; may be given several times.",
        metavar="MODEL",
        repeated=True,
    )
    base: str | None = option(
        None,
        "Public base that the attacks start from.",
        shown="where the secret says that it was",
        metavar="BASE",
    )
    layers: int = option(
        4,
        "Number of layers to attack, evenly spread, or all.",
        panel="Method",
        metavar="N|all",
        parse=layer_count,
    )
    update: tuple[Path, ...] = option(
        (),
        "Update that the holder of the handoffs made itself, which it knows; may be given several"
        " times.",
        panel="Model",
        metavar="UPDATE",
        repeated=True,
    )
    probe: Path | None = option(
        None,
        "Rows to run the models on.",
        shown="texts that the first copy writes",
        panel="Data",
        metavar="FILE",
    )
    no_behaviour: bool = option(
        False,
        "Do not run the models: neither KL(θ‖copy) nor the attack with the base's activations.",
        panel="Method",
    )
    seed: int = option(
        0,
        "Seed of the texts that a copy writes, and of the choice among more than 64 groups of"
        " handoffs.",
        panel="Method",
        least=0,
    )
    page: PageSettings
    gates: GateSettings


@command()
def handoff(job: AuditHandoffOptions, output: Output) -> None:
    """Attack handoffs as their holders could, and compare what leaks with what perturb stated.

    Every copy, every handoff and every group of handoffs is attacked. The attacks use the copies
    and the public base alone; the secret and the model only score them. A number is ‖estimate − θ‖
    in the unit of the noise: 1 is what the base alone leaves unknown. Exit code 1 means that less
    than .9 of what perturb stated stays unknown, which is a bug of perturb.
    """
    from mpu_cli.audit.handoff.aligned import Aligner
    from mpu_cli.audit.handoff.audit import audit_handoff, sampled
    from mpu_cli.audit.handoff.directions import without_directions
    from mpu_cli.audit.handoff.holding import open_holding
    from mpu_cli.audit.handoff.inputs import find_base, match_models, match_records, read_lineage
    from mpu_cli.audit.handoff.left_out import not_attacked
    from mpu_cli.audit.handoff.own_updates import open_own_updates
    from mpu_cli.audit.handoff.run_models import base_directions, measure_behaviour, texts_for
    from mpu_cli.audit.handoff.truth import Truth

    require_names(job.gates.fail_if, NUMBERS)
    job.page.check(*job.handoffs, job.secret, *job.update)
    use_one_thread()
    lineage = read_lineage(job.secret)
    names = _names(job.handoffs)
    with (
        unpacked(output, *job.handoffs) as places,
        unpacked(output, *job.update) as updates,
        output.progress("reading the handoffs") as progress,
    ):
        base = find_base(job.base, lineage, progress)
        holding = open_holding(places, base.checkpoint, progress, names, job.handoffs)
        records = match_records(holding, lineage)
        models = match_models(job.model, holding, records, progress)
        chosen, everything = (
            sampled(holding, records, count, lineage.secret.offset.scale)
            for count in (job.layers, 0)
        )
        texts = None if job.no_behaviour else texts_for(holding, job.probe, job.seed, progress)
        directions = base_directions(holding, chosen, texts, progress) if texts else {}
        aligner = Aligner(holding, directions, open_own_updates(updates, holding, progress))
        truth = Truth(aligner, lineage, records, models, job.secret)
        result = audit_handoff(
            aligner,
            names,
            truth,
            records,
            list(lineage.handoffs.values()),
            layers=job.layers,
            seed=job.seed,
            progress=progress,
        )
        others = not_attacked(holding.layout, records, lineage.secret.offset.scale)
        runs = measure_behaviour(holding, records, models, texts, progress) if texts else None
    warnings = [
        *_warnings(result, base.remark, is_test=lineage.secret.origin == "test"),
        *not_run(without_directions(holding, directions)),
    ]
    failed = _verdict(result, len(everything))
    data = {
        **_data(result),
        "not_attacked": asdict(others),
        **ran_data(runs),
        "warnings": warnings,
    }
    if not output.as_json:
        for text in warnings:
            output.warn(text)
    worst = min(result.rows, key=lambda row: row.nearest.error)
    numbers = _numbers(result, runs)

    def write(failures: Sequence[str]) -> None:
        from mpu_cli.report.gates import Outcome
        from mpu_cli.report.handoff_audit import handoff_audit_page
        from mpu_cli.server.lineage.exposure import prior

        gates = [gate.text for gate in job.gates.fail_if]
        job.page.write(
            output,
            lambda outcome: handoff_audit_page(
                result, runs, prior(records), _facts(result, runs, others), outcome
            ),
            Outcome(numbers, gates, failures, warnings),
        )

    print_gated(
        output,
        data,
        *_body(result, runs, others, job.handoffs[0] / holding.copies[0].name),
        gates=job.gates.fail_if,
        numbers=numbers,
        brief=f"unknown to the holder of {worst.label}: {unknown(worst.nearest.error)}",
        failed=failed,
        write=write,
    )


def _names(paths: tuple[Path, ...]) -> list[str]:
    """What to call the handoffs: by their names, and with their folders if these are the same."""
    short = [path.name.removesuffix(".tar") for path in paths]
    if len(set(short)) == len(short):
        return short
    return [str(path).removesuffix(".tar") for path in paths]


def _numbers(result: HandoffAudit, runs: Runs | None) -> dict[str, float | None]:
    """The numbers of `--fail-if`."""
    most = max(len(row.copies) for row in result.rows)
    single = [row.nearest.error for row in result.rows if len(row.copies) == 1]
    behaviour = smallest_ratio(runs)
    return {
        "one_copy": min(single, default=None),
        "all_copies": min(row.nearest.error for row in result.rows if len(row.copies) == most),
        "exact": max(row.exact for row in result.rows),
        "of_stated": min(
            (row.nearest.error / row.stated for row in result.rows if row.stated), default=None
        ),
        "behaviour": behaviour and behaviour[0],
    }


def _verdict(result: HandoffAudit, hiding: int) -> CheckFailedError | None:
    if not result.worse:
        return None
    row = min(result.worse, key=lambda it: it.nearest.error / it.stated)
    if len(result.layers) < hiding:
        # The statement is a mean over all layers: one of them may leave less.
        where = f" in the {len(result.layers)} layers attacked (of {hiding})"
        hint = (
            "run it with --layers all, of which perturb states its number; if more leaks than"
            " stated there too, report it as a bug of mpu perturb"
        )
    else:
        where, hint = "", "please report it, with the output of --json, as a bug of mpu perturb"
    return CheckFailedError(
        f"{row.label}: {share(row.nearest.error)} is left unknown{where}, and perturb stated"
        f" {share(row.stated)}: more leaks than stated",
        f"{hint}; until then use a larger --offset",
    )


def _warnings(result: HandoffAudit, remark: str, *, is_test: bool) -> list[str]:
    lines = [remark] if remark and not result.has_base else []
    if is_test:
        lines.append("this secret was prepared by a test (origin: test): it hides nothing")
    blind = sorted({name for row in result.rows for name in row.unaligned})
    if blind:
        lines.append(
            f"the reparameterization of {', '.join(blind)} was not undone: the attacks were blind,"
            " and their numbers are no bound on what others can learn"
        )
    if result.left_out:
        lines.append("there are more than 64 groups of handoffs: some, drawn by --seed, were tried")
    return lines


def _body(result: HandoffAudit, runs: Runs | None, others: NotAttacked, copy: Path) -> list[Any]:
    rows = [
        (
            row.label,
            ", ".join(row.holders),
            unknown(row.stated),
            unknown(row.nearest.error),
            f"{100 * row.exact:.3g} %",
            row.nearest.name,
        )
        for row in result.rows
    ]
    unit = "the task vector" if result.unit == "task-vector" else "the weights"
    given = [
        (
            row.holder,
            str(len(row.handoffs)),
            unknown(row.stated),
            "–" if measured is None else unknown(measured.error),
        )
        for row, measured in result.ledger
    ]
    lines = [
        f"Unknown is the error of the best attack in the unit of {unit}; stated is the upper bound"
        " of mpu perturb.",
        "Exact is the share of entries that an attack gives back bit for bit. Neither number says"
        f" how the copies behave ({page('audit')}).",
        "What may differ from the model without changing any output (the order of hidden units and"
        " heads, rotations) was taken out before scoring.",
    ]
    return [
        facts(_facts(result, runs, others)),
        "",
        table("pool", "holders", "stated", "measured", "exact", "nearest attack", rows=rows),
        "",
        *lines,
        *update_lines(result.updates),
        *behaviour_lines(runs),
        "",
        "Given out so far, by the records:",
        table("holder", "handoffs", "stated", "measured", rows=given),
        "",
        "next  measure how a copy behaves, which no number above says, with rows of yours:",
        f"  {command_line('eval', path(copy), '--forget', 'forget.jsonl')}",
        "or    give away less: several holders (--split), or an offset from the first perturb on:",
        f"  {command_line('perturb', '--help')}",
    ]


def _facts(result: HandoffAudit, runs: Runs | None, others: NotAttacked) -> dict[str, str]:
    return {
        "attacked with": (
            "no base"
            if result.base_exact is None
            else "the public base, which equals the model in"
            f" {100 * result.base_exact:.3g} % of the entries"
        ),
        "layers": f"{len(result.layers)} of {result.all_layers}"
        f" ({', '.join(map(str, result.layers))})",
        **left_out(others),
        **three_numbers(result, runs),
    }


def _data(result: HandoffAudit) -> dict[str, Any]:
    return {
        "unit": result.unit,
        "base": result.has_base,
        "base_exact": result.base_exact,
        "layers": list(result.layers),
        "all_layers": result.all_layers,
        "groups_left_out": result.left_out,
        "clearly_matched": dict(result.clear),
        "rows": [
            {
                "pool": row.label,
                "holders": list(row.holders),
                "copies": list(row.copies),
                "handoffs": list(row.handoffs),
                "stated": row.stated,
                "measured": row.nearest.error,
                "exact": row.exact,
                "nearest": row.nearest.name,
                "worse_than_stated": row.worse,
                "alignment_failed": list(row.unaligned),
                "attempts": [asdict(attempt) for attempt in row.attempts],
            }
            for row in result.rows
        ],
        "updates": update_data(result.updates),
        "ledger": [
            {
                "holder": row.holder,
                "handoffs": list(row.handoffs),
                "stated": row.stated,
                "measured": None if measured is None else measured.error,
            }
            for row, measured in result.ledger
        ],
    }
