"""A model with the rows that it is measured on: its scores, its written answers, its columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from mpu_cli.data.batches import pad_id
from mpu_cli.data.vocabulary import embedding_rows
from mpu_cli.errors import MpuError
from mpu_cli.evaluation.columns import MissingInputError
from mpu_cli.evaluation.decoding import refuse_without_cache
from mpu_cli.evaluation.generation import generate
from mpu_cli.evaluation.measured_rows import MeasuredRows
from mpu_cli.evaluation.metric import Evidence, RowMetric, column, gaps
from mpu_cli.evaluation.prompt_format import CONTINUATION, prompt_format
from mpu_cli.evaluation.questions import VERBATIM, Question, QuestionSet
from mpu_cli.evaluation.sampling import Sampling
from mpu_cli.evaluation.scoring import score
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.evaluation.texts import Encoder, Text
from mpu_cli.evaluation.token_scores import TokenScores
from mpu_cli.modeling.processes import gather, this_process

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""
Scores = dict[tuple[str, int], dict[str, list[tuple[Text, TokenScores]]]]
"""By set and row, then by variant."""


class ModelUnderTest:
    """One model and the sets of rows that it is measured on.

    Its weights may change between two measurements.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sets: Sequence[QuestionSet],
        settings: EvalSettings,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.sets = tuple(sets)
        self.encoder = Encoder(tokenizer, model.config, settings.max_length, settings.prompting)
        self.reference: Mapping[tuple[str, int], TokenScores] = {}
        """Another model's scores of the answers, by set and row."""
        self.prompt_formats = {rows.name: prompt_format(rows, settings) for rows in sets}
        self.new_tokens: dict[str, int] = {}
        """The most tokens that the model could write, by set: fewer than the limit if its context
        ends before; only sets that it wrote about are here."""
        self._progress = progress
        if settings.generate and "leak" in settings.robustness:
            refuse_without_cache(model)

    def measure(
        self,
        metrics: Collection[RowMetric],
        sets: Sequence[QuestionSet] | None = None,
        *,
        asked: str = "answer",
    ) -> MeasuredRows:
        """Measure row metrics.

        Args:
            metrics: the metrics.
            sets: the sets to measure them on; None = all.
            asked: "paraphrased question" asks the questions in other words.

        Raises:
            BadDataError, BadModelError: as `Encoder` and `score`.
        """
        sets = self.sets if sets is None else sets
        wanted = {
            rows.name: [metric for metric in metrics if _applies(metric, rows)] for rows in sets
        }
        writing = [
            rows
            for rows in sets
            if self.settings.generate and any(metric.generates for metric in wanted[rows.name])
        ]
        if writing:
            refuse_without_cache(self.model)  # before the scores, which take long
        scores = self.scores(sets, wanted, asked)
        measured = MeasuredRows(written=self.write(writing, asked))
        for rows in sets:
            evidence = [
                self._evidence(question, rows, scores[key], key, measured.written.get(key))
                for number, question in enumerate(rows.questions)
                for key in [(rows.name, number)]
            ]
            for metric in wanted[rows.name]:
                key = (rows.name, metric.name)
                try:
                    measured.columns[key] = column(evidence, metric)
                except MissingInputError as error:
                    measured.reasons[key] = str(error)
                    continue
                if (left_out := gaps(measured.columns[key], metric.gap)) is not None:
                    measured.reasons[key] = left_out
        return measured

    def scores(
        self,
        sets: Sequence[QuestionSet],
        wanted: Mapping[str, Sequence[RowMetric]],
        asked: str = "answer",
    ) -> Scores:
        """Score every text that the metrics of each set need, each text once."""
        texts: list[Text] = []
        for rows in sets:
            variants = {variant for metric in wanted[rows.name] for variant in metric.variants}
            texts += self.encoder.texts(
                [rows], sorted({asked if variant == "answer" else variant for variant in variants})
            )

        def run(share: list[Text]) -> list[TokenScores]:
            return score(
                self.model,
                [text.encoded for text in share],
                [text.where for text in share],
                self.settings.batch_size,
                pad_id(self.tokenizer, embedding_rows(self.model)),
                self._report("reading", len(share)),
            )

        scored = _shared_out(run, texts, [len(text.encoded.input_ids) for text in texts])
        by_row: Scores = defaultdict(lambda: defaultdict(list))
        for text, scores in zip(texts, scored, strict=True):
            variant = "answer" if text.variant == asked else text.variant
            by_row[text.set_name, text.row][variant].append((text, scores))
        return by_row

    def write(
        self, sets: Sequence[QuestionSet], asked: str = "answer"
    ) -> dict[tuple[str, int], str]:
        """The model's greedy continuation of every question or text, by set and row."""
        return {
            (rows.name, number): texts[0]
            for rows in sets
            for number, texts in enumerate(self.continuations(rows, asked))
        }

    def continuations(
        self, question_set: QuestionSet, asked: str = "answer", sampling: Sampling | None = None
    ) -> list[list[str]]:
        """For each question, one greedy continuation or as many as are sampled.

        None of them goes beyond the model's context.
        """
        name, questions = question_set.name, question_set.questions
        asking = self.prompt_formats[name]
        prompts = [self.encoder.prompt(question, asked, asking) for question in questions]
        ends = self.encoder.ends(
            [question for question in questions if asking.text(question.row) is None]
        )
        # One limit for the whole set, so that a text depends neither on its batch nor on the number
        # of processes.
        limit = min(asking.tokens, self.encoder.room(prompts))
        self.new_tokens[name] = min(limit, self.new_tokens.get(name, limit))

        def run(share: list[tuple[int, ...]]) -> list[list[str]]:
            return generate(
                self.model,
                self.tokenizer,
                share,
                limit,
                self.settings.batch_size,
                stop=ends,
                until=asking.stops,
                sampling=sampling,
                progress=self._report("writing", len(share)),
            )

        return _shared_out(run, prompts, [len(prompt) for prompt in prompts])

    def _evidence(
        self,
        question: Question,
        question_set: QuestionSet,
        texts: Mapping[str, list[tuple[Text, TokenScores]]],
        key: tuple[str, int],
        written: str | None,
    ) -> Evidence:
        answers = texts.get("answer") or []
        return Evidence(
            question,
            question_set.role,
            {variant: tuple(scores for _, scores in pairs) for variant, pairs in texts.items()},
            ended=bool(answers) and answers[0][0].ended,
            generation=written,
            rest=None if written is None else self._rest(question, question_set.name),
            reference=self.reference.get(key),
        )

    def _rest(self, question: Question, set_name: str) -> str | None:
        """The text's own continuation, as long as the model's may be; None for a question."""
        row, tokens = question.row, self.new_tokens[set_name]
        if row.text is not None:
            return self.encoder.rest_of_text(question, tokens)
        if self.prompt_formats[set_name].prompt != CONTINUATION:
            return None
        return self.encoder.beginning(row.answer or "", row.where, tokens)

    def _report(self, what: str, items: int) -> Callable[[int, int], None] | None:
        if self._progress is None or not items:
            return None
        progress = self._progress
        return lambda done, total: progress(what, done, total)


def _applies(metric: RowMetric, question_set: QuestionSet) -> bool:
    if question_set.role not in metric.roles:
        return False
    form = "text" if question_set.has_texts else "question"
    return question_set.role == VERBATIM or metric.form in (None, form)


def _shared_out(
    run: Callable[[list[Item]], list[Result]], items: Sequence[Item], lengths: Sequence[int]
) -> list[Result]:
    """Every item's result in the items' order; each process does an equal share of each length."""
    here = this_process()
    order = sorted(range(len(items)), key=lambda i: lengths[i])
    share: list[Result] | MpuError
    try:
        share = run([items[i] for i in order[here.rank :: here.size]])
    except MpuError as error:
        share = error  # the other processes wait for this one, and must stop too
    results: dict[int, Result] = {}
    for rank, part in enumerate(gather(share)):
        if isinstance(part, MpuError):
            raise part
        results |= dict(zip(order[rank :: here.size], part, strict=True))
    return [results[i] for i in range(len(items))]
