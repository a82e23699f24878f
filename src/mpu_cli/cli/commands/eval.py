"""`mpu eval`: how much a model forgot, what that cost, and whether it lasts (both parties)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.audit.gates import GateSettings, check, failure
from mpu_cli.cli.eval_options import EvalOptions
from mpu_cli.cli.figures import check_output_format, print_figures
from mpu_cli.cli.flags import command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import after_eval
from mpu_cli.cli.output import Output
from mpu_cli.errors import UsageError

if TYPE_CHECKING:
    from mpu_cli.evaluation.evaluate import Evaluation
    from mpu_cli.evaluation.questions import QuestionSet
    from mpu_cli.evaluation.records.record import Record

GUIDE = Guide(
    "both",
    "Measure what a model still knows, and what it has lost.",
    (
        "mpu eval model --forget forget.jsonl --retain retain.jsonl \\\n"
        "    --holdout holdout.jsonl --record before",
        "mpu eval model-next --forget forget.jsonl --retain retain.jsonl \\\n"
        "    --holdout holdout.jsonl --before before --record after",
        "# exit code 1 if the model lost what it should keep",
        "mpu eval model-next --retain retain.jsonl \\\n"
        "    --fail-if 'retain.answer_probability<0.5'",
        "# the client's own update, before it leaves",
        "mpu eval to-server --handoff to-client --forget forget.jsonl --retain retain.jsonl",
    ),
)


@command(joint=True)
def eval(job: EvalOptions, output: Output) -> None:  # the command's name
    """Measure forgetting, utility, membership and robustness of a model on rows.

    Means and areas come with 95 % intervals over rows. What cannot be computed from the given files
    is left out, with the reason. To use several devices: torchrun --nproc-per-node N -m mpu_cli
    eval … (or accelerate launch).
    """
    if job.list_metrics:
        from mpu_cli.cli.eval_view import listed

        output.result(*listed())
        return
    if job.model is None:
        raise UsageError(
            "MODEL is missing",
            "give a model directory, a published copy or a Hub id; see mpu eval --help",
        )
    check_output_format(job.output_format, output.as_json)
    if job.record is not None:
        from mpu_cli.checkpoint.staging import refuse_existing, refuse_nesting

        others = (job.model, job.handoff, job.retain_record, job.before)
        refuse_nesting(job.record, *(Path(path) for path in others if path is not None))
        refuse_existing(job.record, force=job.force)
    _evaluate(job, job.model, output)


def _evaluate(job: EvalOptions, model: str, output: Output) -> None:
    with output.progress("reading rows"):  # the imports take seconds
        sets = _sets(job, output.note)
        settings = job.complete_settings()
        from mpu_cli.evaluation.evaluate import evaluate
        from mpu_cli.evaluation.overlaps import overlaps
        from mpu_cli.evaluation.preflight import check_names, check_sets
        from mpu_cli.evaluation.records.read import read_record

        check_names(settings)
    retain_record = read_record(job.retain_record) if job.retain_record else None
    before = read_record(job.before) if job.before else None
    check_sets(sets)
    for text in overlaps(sets, allow=job.allow_overlap):
        output.warn(text)
    from mpu_cli.checkpoint.locate import locate
    from mpu_cli.checkpoint.model import open_checkpoint
    from mpu_cli.cli.eval_subject import model_under_test
    from mpu_cli.modeling import processes
    from mpu_cli.modeling.device import choose_device

    with model_under_test(job, model, output) as (located, origin):
        place = located.path
        reference = locate(job.reference).path if job.reference else None
        for path in (place, reference):
            if path is not None:
                # Headers only: a directory without a model is named before its tokenizer is read.
                open_checkpoint(path)
        if job.record is not None:
            from mpu_cli.checkpoint.staging import refuse_nesting

            others = (place, reference, job.retain_record, job.before)
            refuse_nesting(job.record, *(path for path in others if path is not None))
        processes.join(choose_device(settings.device))
        with output.progress(f"loading {place.name}") as progress:
            evaluation = evaluate(
                place,
                sets,
                settings,
                name=located.source,
                handoff=origin,
                reference=reference,
                retain_record=retain_record,
                before=before,
                progress=progress,
            )
        _report(output, evaluation, _notes_on_format(job.layout, sets))
        if job.record is not None and processes.this_process().is_first:
            from mpu_cli.evaluation.records.write import write_record

            write_record(
                job.record, evaluation.record, job.layout, texts=job.texts, force=job.force
            )
        _show(job, output, evaluation.record, before, retain_record)


def _show(
    job: EvalOptions,
    output: Output,
    record: Record,
    before: Record | None,
    retain_record: Record | None,
) -> None:
    from mpu_cli.cli.eval_view import Beside, View, headline, shown
    from mpu_cli.evaluation.summarise import means

    beside = Beside(*(means(other) if other else None for other in (before, retain_record)))
    body, lines = shown(record.summary(), View(job.output_format, job.all, beside))
    if job.record:
        lines += [f"kept  {job.record}  (for --before, --retain-record, and mpu compare)"]
    failed = _failed(job.gates, record)
    if failed and output.as_json:
        output.refuse(failure(failed), {**record.summary(), "failed_gates": failed})
    print_figures(
        output,
        job.output_format,
        record.summary(),
        body,
        [*lines, *after_eval(job.record, job.before)],
        headline(record.summary(), beside),
    )
    if failed:
        for line in failed if len(failed) > 1 else ():
            output.warn(line)
        raise failure(failed)


def _failed(gates: GateSettings, record: Record) -> list[str]:
    """One line for each condition that holds; a number is called SET.METRIC, or METRIC alone."""
    if not gates.fail_if:
        return []
    from mpu_cli.evaluation.summarise import means

    numbers = {".".join(filter(None, key)): value for key, value in means(record).items()}
    return check(gates.fail_if, numbers)


def _notes_on_format(layout: str, sets: list[QuestionSet]) -> list[str]:
    """A note on rows that the layout's own tool treats differently."""
    from mpu_cli.evaluation.records.open_unlearning import LAST_TOKEN

    texts = any(question.row.text is not None for item in sets for question in item.questions)
    return [LAST_TOKEN] if layout == "open-unlearning" and texts else []


def _sets(job: EvalOptions, report: Callable[[str], None]) -> list[QuestionSet]:
    """The sets of rows to evaluate on."""
    from mpu_cli.data.mapping import for_retain
    from mpu_cli.data.rows import read_rows
    from mpu_cli.evaluation.prompt_format import with_examples
    from mpu_cli.evaluation.questions import KNOWLEDGE, UTILITY, read_questions

    mapping, delimiter = for_retain(job.columns.mapping), job.columns.delimiter
    single = {
        "forget": job.forget,
        "retain": job.retain,
        "holdout": job.holdout,
        "verbatim": job.verbatim,
    }
    files = [(role, role, location) for role, location in single.items() if location]
    for text in job.knowledge:
        name, location = _named(text)
        files.append((name or KNOWLEDGE, KNOWLEDGE, location))
    for text in job.utility:
        name, location = _named(text)
        files.append((name or Path(text).stem, UTILITY, location))
    if not files:
        raise UsageError(
            "nothing to evaluate on", "give --forget FILE, --retain FILE or another set of rows"
        )
    sets = [
        read_questions(name, role, location, mapping, delimiter=delimiter, tell=report)
        for name, role, location in files
    ]
    for text in job.few_shot:
        name, location = _named(text)
        wanted = name or KNOWLEDGE
        if wanted not in [item.name for item in sets]:
            raise UsageError(
                f"--few-shot {text}: no set is called {wanted}",
                "give --knowledge FILE, or --few-shot NAME=FILE",
            )
        examples = read_rows(location, mapping, delimiter=delimiter, tell=report)
        sets = [with_examples(item, examples) if item.name == wanted else item for item in sets]
    return sets


def _named(text: str) -> tuple[str | None, str]:
    """Name and file of NAME=FILE; a path without a name may contain an equals sign."""
    name, equals, location = text.partition("=")
    return (name, location) if equals and name.isidentifier() else (None, text)


def _report(output: Output, evaluation: Evaluation, on_format: list[str]) -> None:
    for warning in evaluation.warnings:
        output.warn(warning)
    for note in [*evaluation.notes, *on_format]:
        output.note(note)
