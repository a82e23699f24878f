"""A model under evaluation.

What it says of the rows and what it writes, as columns of rows' numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mpu_cli.data.batches import pad_id
from mpu_cli.data.vocabulary import embedding_rows
from mpu_cli.errors import MpuError
from mpu_cli.evaluation.asking import CONTINUATION, asking
from mpu_cli.evaluation.generation import generate, refuse_without_cache
from mpu_cli.evaluation.metric import Array, Evidence, MissingInputError, RowMetric, column, gaps
from mpu_cli.evaluation.questions import VERBATIM, Question, QuestionSet
from mpu_cli.evaluation.sampling import Sampling
from mpu_cli.evaluation.scoring import score
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.evaluation.texts import Encoder, Text
from mpu_cli.evaluation.token_scores import TokenScores
from mpu_cli.modeling.processes import gather, this_process

Item = TypeVar("Item")
Found = TypeVar("Found")
Progress = Callable[[str, int, int], None]
Scores = dict[tuple[str, int], dict[str, list[tuple[Text, TokenScores]]]]
"""By set and row, then by variant."""


@dataclass(slots=True)
class MeasuredRows:
    """Columns by (set, metric), why others are missing, and what was written by (set, row)."""

    columns: dict[tuple[str, str], Array] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    written: dict[tuple[str, int], str] = field(default_factory=dict)


class ModelUnderTest:
    """One model with the rows that it is measured on.

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
        """`progress` is told (what, done, in all)."""
        self.model, self.tokenizer, self.sets, self.settings = (
            model,
            tokenizer,
            tuple(sets),
            settings,
        )
        self.encoder = Encoder(tokenizer, model.config, settings.max_length, settings.prompting)
        self.reference: Mapping[tuple[str, int], TokenScores] = {}
        """What another model says of the answers, by set and row."""
        self.asking = {each.name: asking(each, settings) for each in sets}
        self.new_tokens: dict[str, int] = {}
        """Tokens that the model was let write at most, by set where anything was written: fewer than asked for where the context ends."""
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
        """The columns of row metrics.

        Args:
            metrics: which.
            sets: on which; None = all.
            asked: "paraphrased question" asks in other words.

        Raises:
            BadDataError, BadModelError: as `Encoder` and `score` do.
        """
        sets = self.sets if sets is None else sets
        wanted = {
            each.name: [metric for metric in metrics if _applies(metric, each)] for each in sets
        }
        writing = [
            each
            for each in sets
            if self.settings.generate and any(metric.generates for metric in wanted[each.name])
        ]
        if writing:
            refuse_without_cache(self.model)  # before the long part
        scores = self.scores(sets, wanted, asked)
        found = MeasuredRows(written=self.write(writing, asked))
        for each in sets:
            keys = [(each.name, number) for number in range(len(each.questions))]
            rows = [
                self._evidence(
                    question, each, scores[key], found.written.get(key), self.reference.get(key)
                )
                for key, question in zip(keys, each.questions, strict=True)
            ]
            for metric in wanted[each.name]:
                key = (each.name, metric.name)
                try:
                    found.columns[key] = column(rows, metric)
                except MissingInputError as error:
                    found.reasons[key] = str(error)
                    continue
                if (left_out := gaps(found.columns[key], metric.gap)) is not None:
                    found.reasons[key] = left_out
        return found

    def scores(
        self, sets: Sequence[QuestionSet], wanted: dict[str, list[RowMetric]], asked: str = "answer"
    ) -> Scores:
        """The texts and what the model says of them, every text once."""
        texts: list[Text] = []
        for each in sets:
            variants = {variant for metric in wanted[each.name] for variant in metric.variants}
            texts += self.encoder.texts(
                [each], sorted({asked if variant == "answer" else variant for variant in variants})
            )
        found: Scores = defaultdict(lambda: defaultdict(list))

        def run(mine: list[Text]) -> list[TokenScores]:
            size, filler = (
                self.settings.batch_size,
                pad_id(self.tokenizer, embedding_rows(self.model)),
            )
            return score(
                self.model,
                [t.encoded for t in mine],
                [t.where for t in mine],
                size,
                filler,
                self._told("reading", len(mine)),
            )

        for text, scores in zip(
            texts, _dealt(run, texts, [len(text.encoded.input_ids) for text in texts]), strict=True
        ):
            found[text.set_name, text.row][
                "answer" if text.variant == asked else text.variant
            ].append((text, scores))
        return found

    def write(
        self, sets: Sequence[QuestionSet], asked: str = "answer"
    ) -> dict[tuple[str, int], str]:
        """What the model writes after every question or beginning of a text, greedily, by set and row."""
        return {
            (each.name, number): texts[0]
            for each in sets
            for number, texts in enumerate(self.continuations(each, asked))
        }

    def continuations(
        self, each: QuestionSet, asked: str = "answer", sampling: Sampling | None = None
    ) -> list[list[str]]:
        """One greedy continuation of each question, or as many as are sampled.

        None goes beyond the model's context.
        """
        how, settings = self.asking[each.name], self.settings
        prompts = [self.encoder.prompt(question, asked, how) for question in each.questions]
        ends = self.encoder.ends(
            [question for question in each.questions if how.text(question.row) is None]
        )
        # The same for the whole set, so that a text depends neither on its batch nor on how many
        # processes there are.
        most = min(how.tokens, self.encoder.room(prompts))
        self.new_tokens[each.name] = min(most, self.new_tokens.get(each.name, most))

        def run(mine: list[tuple[int, ...]]) -> list[list[str]]:
            return generate(
                self.model,
                self.tokenizer,
                mine,
                most,
                settings.batch_size,
                stop=ends,
                until=how.stops,
                sampling=sampling,
                progress=self._told("writing", len(mine)),
            )

        return _dealt(run, prompts, [len(prompt) for prompt in prompts])

    def _evidence(
        self,
        question: Question,
        each: QuestionSet,
        found: dict[str, list[tuple[Text, TokenScores]]],
        written: str | None,
        reference: TokenScores | None,
    ) -> Evidence:
        answers = found.get("answer") or []
        rest = None if written is None else self._rest(question, each)
        scores = {variant: tuple(scores for _, scores in texts) for variant, texts in found.items()}
        return Evidence(
            question,
            each.role,
            scores,
            bool(answers) and answers[0][0].ended,
            written,
            rest,
            reference,
        )

    def _rest(self, question: Question, each: QuestionSet) -> str | None:
        """How the text goes on, as far as the model was let write; None of a question."""
        row, tokens = question.row, self.new_tokens[each.name]
        if row.text is not None:
            return self.encoder.rest_of_text(question, tokens)
        continued = self.asking[each.name].prompt == CONTINUATION
        return self.encoder.beginning(row.answer or "", row.where, tokens) if continued else None

    def _told(self, what: str, mine: int) -> Callable[[int, int], None] | None:
        if self._progress is None or not mine:
            return None
        progress = self._progress
        return lambda done, total: progress(what, done, total)


def _applies(metric: RowMetric, each: QuestionSet) -> bool:
    if each.role not in metric.roles:
        return False
    texts = any(question.row.text is not None for question in each.questions)
    return metric.form is None or each.role == VERBATIM or texts == (metric.form == "text")


def _dealt(
    run: Callable[[list[Item]], list[Found]], items: Sequence[Item], lengths: Sequence[int]
) -> list[Found]:
    """Every item's result in the items' order, each process doing an equal share, long and short ones alike."""
    here = this_process()
    order = sorted(range(len(items)), key=lambda i: lengths[i])
    mine = order[here.rank :: here.size]
    result: list[Found] | MpuError
    try:
        result = run([items[i] for i in mine])
    except MpuError as error:
        result = error  # the others wait for this process, and shall stop too
    everywhere = gather(result)
    for part in everywhere:
        if isinstance(part, MpuError):
            raise part
    found: dict[int, Found] = {}
    for rank, part in enumerate(everywhere):
        found |= dict(zip(order[rank :: here.size], part, strict=True))
    return [found[i] for i in range(len(items))]
