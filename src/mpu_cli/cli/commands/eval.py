"""`mpu eval`: did it forget, what did it cost, does it stay forgotten (both parties)."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpu_cli.cli.figures import CSV, MARKDOWN, check_output_format, print_figures
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import after_eval
from mpu_cli.cli.options import (
    All,
    AllowOverlap,
    Config,
    ContentParts,
    Delimiter,
    Force,
    Json,
    OutputFormat,
    SystemPrompt,
    TemplateDate,
    TemplateVar,
    choice,
    prompting_of,
)
from mpu_cli.cli.output import Output
from mpu_cli.errors import MpuError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mpu_cli.evaluation.evaluate import Evaluation
    from mpu_cli.evaluation.questions import QuestionSet
    from mpu_cli.evaluation.records.record import Record
    from mpu_cli.evaluation.settings import EvalSettings

GUIDE = Guide(
    "both",
    "Measure what a model still knows, and what it has lost.",
    (
        "mpu eval model --forget forget.jsonl --retain retain.jsonl \\\n    --holdout holdout.jsonl --record before",
        "mpu eval model-next --forget forget.jsonl --retain retain.jsonl \\\n    --holdout holdout.jsonl --before before --record after",
        "# the client's own update, before it leaves",
        "mpu eval to-server --handoff to-client --forget forget.jsonl --retain retain.jsonl",
    ),
)


def eval(  # the command's name
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model directory, a published copy, a Hub id, or an update with --handoff."
        ),
    ] = None,
    handoff: Annotated[
        Path | None,
        typer.Option(
            help="MODEL is an update of yours: measure a copy of this handoff as it changed it.",
            metavar="DIR",
        ),
    ] = None,
    copy: Annotated[
        int | None,
        typer.Option("--copy", help="With --handoff: which copy. [default: 1]", metavar="K"),
    ] = None,
    forget: Annotated[
        str | None, typer.Option(help="Rows that should be forgotten.", metavar="FILE")
    ] = None,
    retain: Annotated[
        str | None, typer.Option(help="Rows that should still be known.", metavar="FILE")
    ] = None,
    holdout: Annotated[
        str | None,
        typer.Option(help="Rows like the forget set that the model never saw.", metavar="FILE"),
    ] = None,
    utility: Annotated[
        list[str] | None,
        typer.Option(help="More rows to still know; repeatable.", metavar="[NAME=]FILE"),
    ] = None,
    knowledge: Annotated[
        list[str] | None,
        typer.Option(
            help="Questions about a forget set of plain texts (MUSE); repeatable.",
            metavar="[NAME=]FILE",
        ),
    ] = None,
    few_shot: Annotated[
        list[str] | None,
        typer.Option(
            help="Answered questions to put before each question of a knowledge set; repeatable.",
            metavar="[NAME=]FILE",
        ),
    ] = None,
    verbatim: Annotated[
        str | None,
        typer.Option(
            help="Beginnings of forgotten texts and how they go on (MUSE).", metavar="FILE"
        ),
    ] = None,
    allow_overlap: AllowOverlap = False,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="Which column holds a field, field=column.", metavar="FIELD=COLUMN"
        ),
    ] = None,
    delimiter: Delimiter = None,
    system_prompt: SystemPrompt = None,
    template_var: TemplateVar = None,
    template_date: TemplateDate = None,
    content_parts: ContentParts = False,
    reference: Annotated[
        str | None,
        typer.Option(help="Another model, for membership by reference.", metavar="MODEL"),
    ] = None,
    retain_record: Annotated[
        Path | None,
        typer.Option(
            help="Record of a model that never saw the forget set (ours, or open-unlearning's).",
            metavar="RECORD",
        ),
    ] = None,
    before: Annotated[
        Path | None, typer.Option(help="Record of the model before unlearning.", metavar="RECORD")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Only this metric; repeatable. [default: all]", metavar="NAME"),
    ] = None,
    robustness: Annotated[
        list[str] | None,
        typer.Option(
            help="quantization, relearning, paraphrase, leak, or all; repeatable.", metavar="NAME"
        ),
    ] = None,
    generate: Annotated[
        bool, typer.Option("--generate/--no-generate", help="Let the model write (ROUGE, fluency).")
    ] = True,
    record: Annotated[
        Path | None,
        typer.Option(help="Keep summary and rows' numbers in this new directory.", metavar="DIR"),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help=(
                "The record's layout: mpu or open-unlearning (whose own code loses a plain text's"
                " last token)."
            ),
        ),
    ] = "mpu",
    texts: Annotated[
        bool, typer.Option("--texts", help="Keep what the model wrote in the record, too.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Texts in a batch.")] = 32,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of a text at most. [default: the model's context]")
    ] = None,
    max_new_tokens: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "Tokens that the model may write, for all sets or one; repeatable. [default: 200;"
                " of knowledge 32, of texts 128]"
            ),
            metavar="[SET=]N",
        ),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                r"Text before which an answer ends, \n a line break; repeatable. [default: MUSE's"
                r" of knowledge]"
            ),
            metavar="TEXT",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Answers drawn for each question (leak).")] = 8,
    temperature: Annotated[float, typer.Option(help="Of the drawn answers.")] = 1.0,
    relearn_rows: Annotated[
        int, typer.Option(help="Forget rows that are taught again (relearning).")
    ] = 10,
    relearn_steps: Annotated[int, typer.Option(help="Steps of it.")] = 20,
    relearn_rate: Annotated[
        list[float] | None,
        typer.Option(
            help=(
                "Its learning rate (AdamW); repeatable, the worst counts. [default: 1e-5, 1e-4,"
                " 3e-4, 1e-3]"
            ),
            metavar="RATE",
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option(help="Random weightings of the rows that the intervals are made of.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    list_metrics: Annotated[
        bool,
        typer.Option(
            "--list-metrics", help="Print every metric and check with its formula and source."
        ),
    ] = False,
    all_: All = False,
    output_format: OutputFormat = "text",
    force: Force = False,
    json: Json = False,
    config: Config = None,
) -> None:
    """Measure forgetting, utility, membership and robustness of a model on rows.

    Means and areas come with 95 % intervals over rows. What cannot be computed from what was given
    is left out with its reason. Several devices: torchrun --nproc-per-node N -m mpu_cli eval … (or
    accelerate launch).
    """
    from mpu_cli.modeling import processes

    here = processes.this_process()
    output = Output(context, as_json=json, silent=not here.is_first)
    try:
        processes.check_launch()
        if (alone := processes.leave_allocation()) is not None:
            output.warn(alone)
        with ExitStack() as stack:
            _run(context, output, stack)
    except MpuError as error:
        # The first process has the same to say, and says it.
        if here.is_first or os.environ.get("MPU_DEBUG") == "1":
            raise
        raise typer.Exit(error.exit_code) from error
    finally:
        processes.leave()


def _run(context: typer.Context, output: Output, stack: ExitStack) -> None:
    """`stack` lives until the result is out."""
    from mpu_cli.cli.eval_view import listed

    options: dict[str, Any] = context.params
    if options["list_metrics"]:
        output.result(*listed())
        return
    if options["model"] is None:
        raise UsageError(
            "MODEL is missing",
            "give a model directory, a published copy or a Hub id; see mpu eval --help",
        )
    if options["format_"] in {MARKDOWN, CSV}:
        raise UsageError(
            f"--format {options['format_']}: is about the record's files",
            f"give --output-format {options['format_']}",
        )
    choice("--format", options["format_"], ("mpu", "open-unlearning"))
    check_output_format(options["output_format"], options["json"])
    choice("--device", options["device"], ("auto", "cpu", "cuda", "mps"))
    if options["record"] is not None:
        from mpu_cli.checkpoint.staging import refuse_existing, refuse_nesting

        given = ("model", "handoff", "retain_record", "before")
        refuse_nesting(options["record"], *(Path(options[name]) for name in given if options[name]))
        refuse_existing(options["record"], force=options["force"])
    with output.progress("reading rows"):  # the imports take seconds
        sets = _sets(options, output.note)
        settings = _settings(options)
        from mpu_cli.evaluation.evaluate import evaluate
        from mpu_cli.evaluation.overlaps import overlaps
        from mpu_cli.evaluation.preflight import check_names, check_sets
        from mpu_cli.evaluation.records.read import read_record

        check_names(settings)
    retain_record, before = (
        read_record(options[name]) if options[name] else None
        for name in ("retain_record", "before")
    )
    check_sets(sets)
    for text in overlaps(sets, allow=options["allow_overlap"]):
        output.warn(text)
    from mpu_cli.checkpoint.locate import locate
    from mpu_cli.checkpoint.model import open_checkpoint
    from mpu_cli.cli.eval_subject import subject
    from mpu_cli.modeling import processes
    from mpu_cli.modeling.device import choose_device

    found_at, origin = stack.enter_context(subject(options, output))
    place = found_at.path
    reference = locate(options["reference"]).path if options["reference"] else None
    for path in (place, reference):
        if path is not None:
            open_checkpoint(
                path
            )  # headers only: what is no model is named before a tokenizer is looked for in it
    if options["record"] is not None:
        from mpu_cli.checkpoint.staging import refuse_nesting

        kept = (
            path
            for path in (reference, options["retain_record"], options["before"])
            if path is not None
        )
        refuse_nesting(options["record"], place, *kept)
    processes.join(choose_device(settings.device))
    with output.progress(f"loading {place.name}") as progress:
        found = evaluate(
            place,
            sets,
            settings,
            name=found_at.source,
            handoff=origin,
            reference=reference,
            retain_record=retain_record,
            before=before,
            progress=progress,
        )
    _tell(output, found, _notes_on_format(options["format_"], sets))
    if options["record"] is not None and processes.this_process().is_first:
        from mpu_cli.evaluation.records.write import write_record

        write_record(
            options["record"],
            found.record,
            options["format_"],
            texts=options["texts"],
            force=options["force"],
        )
    _show(output, options, found.record, before, retain_record)


def _show(
    output: Output,
    options: dict[str, Any],
    record: Record,
    before: Record | None,
    retain_record: Record | None,
) -> None:
    from mpu_cli.cli.eval_view import Beside, View, headline, shown
    from mpu_cli.evaluation.summarise import means

    beside = Beside(*(means(one) if one else None for one in (before, retain_record)))
    body, lines = shown(record.summary(), View(options["output_format"], options["all_"], beside))
    kept = (
        [f"kept  {options['record']}  (for --before, --retain-record, and mpu compare)"]
        if options["record"]
        else []
    )
    further = [*lines, *kept, *after_eval(options["record"], options["before"])]
    print_figures(
        output,
        options["output_format"],
        record.summary(),
        body,
        further,
        headline(record.summary(), beside),
    )


def _notes_on_format(layout: str, sets: list[QuestionSet]) -> list[str]:
    """What the layout's own tool does otherwise on these rows."""
    from mpu_cli.evaluation.records.open_unlearning import LAST_TOKEN

    texts = any(question.row.text is not None for each in sets for question in each.questions)
    return [LAST_TOKEN] if layout == "open-unlearning" and texts else []


def _sets(options: dict[str, Any], tell: Callable[[str], None]) -> list[QuestionSet]:
    from mpu_cli.data.formats.csv_table import parse_delimiter
    from mpu_cli.data.mapping import for_retain, parse_mapping
    from mpu_cli.data.rows import read_rows
    from mpu_cli.evaluation.prompt_format import with_examples
    from mpu_cli.evaluation.questions import KNOWLEDGE, UTILITY, read_questions

    mapping, delimiter = (
        for_retain(parse_mapping(options["map_"] or [])),
        parse_delimiter(options["delimiter"]),
    )
    named = [
        (role, role, options[role])
        for role in ("forget", "retain", "holdout", "verbatim")
        if options[role]
    ]
    for given in options["knowledge"] or []:
        name, location = _named(given)
        named.append((name or KNOWLEDGE, KNOWLEDGE, location))
    for given in options["utility"] or []:
        name, location = _named(given)
        named.append((name or Path(given).stem, UTILITY, location))
    if not named:
        raise UsageError(
            "nothing to evaluate on", "give --forget FILE, --retain FILE or another set of rows"
        )
    sets = [
        read_questions(name, role, location, mapping, delimiter=delimiter, tell=tell)
        for name, role, location in named
    ]
    for given in options["few_shot"] or []:
        name, location = _named(given)
        wanted = name or KNOWLEDGE
        if wanted not in [each.name for each in sets]:
            raise UsageError(
                f"--few-shot {given}: no set is called {wanted}",
                "give --knowledge FILE, or --few-shot NAME=FILE",
            )
        examples = read_rows(location, mapping, delimiter=delimiter, tell=tell)
        sets = [with_examples(each, examples) if each.name == wanted else each for each in sets]
    return sets


def _named(given: str) -> tuple[str | None, str]:
    """NAME=FILE in two, or no name; a path may have an equals sign in it."""
    name, equals, location = given.partition("=")
    return (name, location) if equals and name.isidentifier() else (None, given)


def _tokens(given: list[str]) -> tuple[int | None, tuple[tuple[str, int], ...]]:
    """For all sets, and for single ones."""
    everywhere, single = None, {}
    for text in given:
        name, equals, number = text.rpartition("=")
        try:
            tokens = int(number)
        except ValueError:
            raise UsageError(
                f"--max-new-tokens {text}: expected a whole number, or SET=NUMBER"
            ) from None
        if equals:
            single[name] = tokens
        else:
            everywhere = tokens
    return everywhere, tuple(single.items())


def _tell(output: Output, found: Evaluation, on_format: list[str]) -> None:
    for warning in found.warnings:
        output.warn(warning)
    for note in [*found.notes, *on_format]:
        output.note(note)


def _settings(options: dict[str, Any]) -> EvalSettings:
    from dataclasses import fields

    from mpu_cli.evaluation.robustness import all_checks
    from mpu_cli.evaluation.settings import RELEARN_RATES, EvalSettings

    values = {
        field.name: options[field.name] for field in fields(EvalSettings) if field.name in options
    }
    values["metrics"] = tuple(options["metric"] or ())
    values["max_new_tokens"], values["tokens_by_set"] = _tokens(options["max_new_tokens"] or [])
    values["relearn_rates"] = tuple(options["relearn_rate"] or RELEARN_RATES)
    values["stop"] = tuple(
        text.replace("\\n", "\n").replace("\\t", "\t") for text in options["stop"] or ()
    )
    checks = tuple(options["robustness"] or ())
    values["robustness"] = tuple(all_checks()) if "all" in checks else checks
    values["prompting"] = prompting_of(options)
    return EvalSettings(**values)
