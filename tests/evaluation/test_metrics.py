"""Every metric against a second implementation on a real model, and by hand."""

from __future__ import annotations

import ast
import itertools
import math
import random
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_rows import evidence, questions, rows, scores, settings, words

import mpu_cli.evaluation.metrics as metrics_package
from mpu_cli.evaluation.columns import Columns, MissingInputError
from mpu_cli.evaluation.evaluate import Evaluation, evaluate
from mpu_cli.evaluation.metrics import METRICS, all_metrics, model_metrics, row_metrics
from mpu_cli.evaluation.records.record import Record
from mpu_cli.registry import attribute

CLOSE = {"rel": 1e-6, "abs": 1e-6}
"""The evaluation computes in float32, the second implementation in float64."""


def of(name: str, row) -> float:
    """A row metric's number."""
    return row_metrics()[name].item(row)


class Second:
    """The second implementation.

    One row at a time, float64, no cache, no padding, numpy from the logits on.
    """

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)

    @torch.no_grad()
    def logits(self, ids: list[int]) -> np.ndarray:
        """(T, V)."""
        return self.model(torch.tensor([ids])).logits[0].numpy()

    def ids(self, text: str) -> list[int]:
        """Tokens of a text, nothing added."""
        return [self.tokenizer.vocab[word] for word in text.split()]

    def read(self, question: str, answer: str) -> SimpleNamespace:
        """What the model says of an answer and the end mark after it."""
        prompt, said = self.ids(question), [*self.ids(answer), 1]
        logits = self.logits(prompt + said)[len(prompt) - 1 : -1]
        log_p = logits - logits.max(-1, keepdims=True)
        log_p = log_p - np.log(np.exp(log_p).sum(-1, keepdims=True))
        p, own = np.exp(log_p), log_p[np.arange(len(said)), said]
        mu = (p * log_p).sum(-1)
        sigma = np.sqrt(np.maximum((p * log_p**2).sum(-1) - mu**2, 1e-6))
        return SimpleNamespace(
            own=own,
            loss=-own.mean(),
            top=(logits.argmax(-1) == said)[:-1],
            z=((own - mu) / sigma)[:-1],
        )

    def write(self, prompt: list[int], most: int) -> str:
        """Greedily, the whole text again for every token."""
        ids = list(prompt)
        while len(ids) < len(prompt) + most:
            token = int(self.logits(ids)[-1].argmax())
            if token == 1:
                break
            ids.append(token)
        return " ".join(
            self.tokenizer.convert_ids_to_tokens(token) for token in ids[len(prompt) :] if token > 2
        )


def lcs(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence."""
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, j in itertools.product(range(len(a)), range(len(b))):
        table[i + 1, j + 1] = (
            table[i, j] + 1 if a[i] == b[j] else max(table[i, j + 1], table[i + 1, j])
        )
    return int(table[-1, -1])


def lowest(values: np.ndarray) -> float:
    """The mean of the lowest 40 %."""
    return float(np.mean(sorted(values)[: max(1, int(0.4 * len(values)))]))


def expected_rows(
    second: Second, role: str, data: list[dict], reference: Second | None
) -> dict[str, list[float]]:
    """Every row metric, computed another way."""
    found: dict[str, list[float]] = {}
    for row in data:
        answer = second.read(row["question"], row["answer"])
        own = answer.own[:-1]
        numbers: dict[str, float] = {}
        if role in ("forget", "holdout"):
            numbers |= {
                "loss": answer.loss,
                "min_k": -lowest(own),
                "min_k_plus_plus": -lowest(answer.z),
            }
            numbers["zlib"] = answer.loss / len(zlib.compress(row["answer"].encode()))
            if reference:
                numbers["reference"] = (
                    answer.loss - reference.read(row["question"], row["answer"]).loss
                )
        if role != "holdout":
            right = second.read(row["question"], row.get("paraphrased_answer", row["answer"]))
            wrong = [second.read(row["question"], text).loss for text in row["perturbed_answer"]]
            p = math.exp(-answer.loss)
            ratio = math.exp(-np.mean(wrong)) / math.exp(-right.loss)
            written = second.write(second.ids(row["question"]), 8).split()
            # rouge-score's words have letters and digits only; its stemmer leaves these alone.
            said, true = (
                [w for w in written if w.isalnum()],
                [w for w in row["answer"].split() if w.isalnum()],
            )
            common = lcs(said, true)
            recall, precision = common / max(1, len(true)), common / max(1, len(said))
            suffixes = [k for k in range(len(own) + 1) if answer.top[k:].all()]
            numbers |= {
                "answer_probability": p,
                "normalised_probability": p / (p + sum(math.exp(-loss) for loss in wrong)),
                "exact_memorization": answer.top.mean(),
                "extraction_strength": 1 - suffixes[0] / len(own),
                "ratio": ratio,
                "truth_ratio": min(ratio, 1 / ratio) if role == "forget" else max(0, 1 - ratio),
                "truth_probability": math.exp(-right.loss)
                / (math.exp(-right.loss) + math.exp(-np.mean(wrong))),
                "rouge_recall": recall,
                **dict.fromkeys(
                    ("knowledge_memorization", "knowledge_memorization_stemmed"),
                    2 * recall * precision / (recall + precision) if common else 0.0,
                ),
                "empty": float(not written),
            }
        for name, number in numbers.items():
            found.setdefault(name, []).append(float(number))
    return found


ROLES = {"forget": "forget", "retain": "retain", "holdout": "holdout", "facts": "utility"}


@pytest.fixture(scope="module")
def models(tiny_pair) -> tuple[Path, Path]:
    """A model and another."""
    pair = tiny_pair("llama-biased", seed=3)
    return pair.model, pair.base


@pytest.fixture(scope="module")
def data(models) -> dict[str, list[dict]]:
    """Rows of four sets; the model knows one by heart, and one without its first word."""
    second = Second(models[0])
    found = {name: rows(12, seed, choice=name == "facts") for seed, name in enumerate(ROLES)}
    for row in itertools.chain(*(some[at::3] for some in found.values() for at in (0, 1))):
        first = (
            row["answer"].split()[:1]
            if row in itertools.chain(*(some[1::3] for some in found.values()))
            else []
        )
        said = second.write(second.ids(" ".join([row["question"], *first])), 6)
        row["answer"] = (
            " ".join([*first, said])
            if any(word.isalnum() for word in said.split())
            else row["answer"]
        )
    return found


@pytest.fixture(scope="module")
def retained(models, data, tmp_path_factory) -> Record:
    """The record of the other model."""
    root = tmp_path_factory.mktemp("retained")
    sets = [questions(root, name, ROLES[name], data[name]) for name in ROLES]
    return evaluate(models[1], sets, settings(generate=False)).record


@pytest.fixture(scope="module")
def found(models, data, retained, tmp_path_factory) -> Evaluation:
    """Everything that `evaluate` computes of the model."""
    root = tmp_path_factory.mktemp("rows")
    sets = [questions(root, name, ROLES[name], data[name]) for name in ROLES]
    return evaluate(models[0], sets, settings(), reference=models[1], retain_record=retained)


@pytest.fixture(scope="module")
def second(models, data) -> dict[str, dict[str, list[float]]]:
    """The second implementation's numbers, by set."""
    mine, other = Second(models[0]), Second(models[1])
    return {name: expected_rows(mine, ROLES[name], data[name], other) for name in ROLES}


@pytest.mark.parametrize("name", list(ROLES))
def test_rows_equal_a_second_implementation(name, found, second):
    """Float64 logits of one row at a time, own log-softmax, own longest common subsequence.

    All numbers of all rows.
    """
    for metric, numbers in second[name].items():
        assert found.record.columns[name, metric] == pytest.approx(numbers, **CLOSE), metric


def test_the_second_implementation_covers_every_metric(found, second):
    """A new metric without a second implementation is named here.

    Those of fluency are worked by hand below; a metric with a test file of its own is tested there.
    """
    covered = {metric for numbers in second.values() for metric in numbers}
    by_hand = {
        "repetition",
        "ngram_entropy",
        "verbatim_memorization",
        "verbatim_memorization_stemmed",
    }
    elsewhere = {
        metric.name
        for stem in METRICS.files()
        if (Path(__file__).parent / f"test_{stem}.py").is_file()
        for metric in METRICS.load(stem, attribute(metrics_package.__name__, "METRICS"))
    }
    missing = set(row_metrics()) - covered - by_hand - elsewhere
    assert not missing, "write tests/evaluation/test_FILE.py: docs/how-to/add-a-metric.md"
    assert {m for name, m in found.record.columns} - set(row_metrics()) == set()


def test_numbers_are_not_all_alike(second):
    """The rows tell right from wrong implementations.

    Every metric varies over the rows, ROUGE is not 0 everywhere.
    """
    for metric in (
        "answer_probability",
        "ratio",
        "rouge_recall",
        "exact_memorization",
        "extraction_strength",
        "min_k_plus_plus",
    ):
        assert len(set(second["forget"][metric] + second["facts"].get(metric, []))) > 1, metric


def test_model_metrics_equal_a_second_implementation(found, second, models, data):
    """scikit-learn's areas, scipy's harmonic mean and KS statistic, of the second code."""
    from scipy.stats import hmean, ks_2samp
    from sklearn.metrics import roc_auc_score

    values = {name: one["value"] for name, one in found.record.values["model"].items()}
    labels = [0] * 12 + [1] * 12
    areas = {}
    for attack in ("loss", "min_k", "min_k_plus_plus", "zlib", "reference"):
        areas[attack] = roc_auc_score(labels, second["forget"][attack] + second["holdout"][attack])
        assert values.pop(f"membership_{attack}") == pytest.approx(areas[attack], **CLOSE)
    other = {
        name: expected_rows(Second(models[1]), ROLES[name], data[name], None)
        for name in ("forget", "holdout")
    }
    retrained = roc_auc_score(labels, other["forget"]["min_k"] + other["holdout"]["min_k"])
    leak = ((1 - areas["min_k"]) - (1 - retrained)) / (1 - retrained) * 100
    assert values.pop("privacy_leakage") == pytest.approx(leak, **CLOSE)
    mine, theirs = np.array(second["forget"]["ratio"]), np.array(other["forget"]["ratio"])
    points = np.concatenate([mine, theirs])
    distance = max(abs((mine <= x).mean() - (theirs <= x).mean()) for x in points)
    assert values.pop("forget_distance") == pytest.approx(distance, **CLOSE)
    assert values.pop("forget_quality") == pytest.approx(ks_2samp(mine, theirs).pvalue, **CLOSE)
    nine = [
        np.mean(second["retain"][name])
        for name in ("answer_probability", "rouge_recall", "truth_ratio")
    ]
    nine += [
        np.mean(second["facts"][name])
        for name in ("normalised_probability", "rouge_recall", "truth_ratio")
    ]
    assert values.pop("model_utility") == pytest.approx(hmean(nine), **CLOSE)
    assert values == {}


def test_means_are_of_the_rows_and_lie_in_their_intervals(found, second):
    """The second implementation's mean, inside a 95 % interval that is not a point."""
    for name, metric in ((n, m) for n in second for m in second[n] if row_metrics()[m].shown):
        one = found.record.values[name][metric]
        assert one["value"] == pytest.approx(np.mean(second[name][metric]), **CLOSE)
        assert one["low"] <= one["value"] <= one["high"]


def test_verbatim_memorization_continues_the_second_half(models, tmp_path):
    """The first half of a plain text's tokens is the prompt, the rest the target of ROUGE."""
    from rouge_score.rouge_scorer import RougeScorer

    rng = random.Random(7)
    mine = Second(models[0])
    texts = [words(rng, 4, 20) for _ in range(6)]
    texts += [
        f"{text} {mine.write(mine.ids(text), len(text.split()))}" for text in texts[:3]
    ]  # the model's own words
    done = evaluate(
        models[0],
        [questions(tmp_path, "forget", "forget", [{"text": text} for text in texts])],
        settings(),
    )
    for text, number in zip(
        texts, done.record.columns["forget", "verbatim_memorization"], strict=True
    ):
        ids = mine.ids(text)
        written = mine.write(ids[: len(ids) // 2], 8)
        rest = " ".join(text.split()[len(ids) // 2 :][:8])  # no more than the model may write
        assert number == pytest.approx(
            RougeScorer(["rougeL"], use_stemmer=False).score(rest, written)["rougeL"].fmeasure,
            **CLOSE,
        )
    assert done.record.columns["forget", "verbatim_memorization"].max() > 0


def test_a_texts_membership_does_not_depend_on_what_is_written(models, tmp_path):
    """Zlib compresses the whole text that the loss covers, with generation and without."""
    rng = random.Random(8)
    sets = [
        questions(tmp_path, name, name, [{"text": words(rng, 30, 60)} for _ in range(6)])
        for name in ("forget", "holdout")
    ]
    with_writing, without = (
        evaluate(models[0], sets, settings(generate=generate)).record for generate in (True, False)
    )
    assert with_writing.columns["forget", "zlib"] == pytest.approx(
        without.columns["forget", "zlib"]
    )
    for question_set in sets:
        for row, question in enumerate(question_set.questions):
            size = len(zlib.compress(question.row.text.encode()))
            assert with_writing.columns[question_set.name, "zlib"][row] == pytest.approx(
                with_writing.columns[question_set.name, "loss"][row] / size
            )


def test_a_text_longer_than_the_context_is_halved_within_it(models, tmp_path):
    """The prompt is half of the measured tokens, so that some are left to write."""
    rng = random.Random(9)
    text = words(rng, 300, 300)
    done = evaluate(
        models[0], [questions(tmp_path, "verbatim", "verbatim", [{"text": text}])], settings()
    )
    assert done.notes
    written = Second(models[0]).write(Second(models[0]).ids(text)[:64], 8)
    assert done.record.written["verbatim", 0] == written
    from rouge_score.rouge_scorer import RougeScorer

    rest = " ".join(text.split()[64:72])
    value = RougeScorer(["rougeL"], use_stemmer=False).score(rest, written)["rougeL"].fmeasure
    assert done.record.columns["verbatim", "verbatim_memorization"][0] == pytest.approx(value)


# By hand.


def test_answer_probability():
    """The exponential of the mean log-probability: tokens of probability 1/2 and 1/8 give 1/4."""
    assert of(
        "answer_probability", evidence(scores([math.log(0.5), math.log(0.125)]))
    ) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("top", "strength", "exact"),
    [
        ([1, 1, 1, 1], 1, 1),
        ([0, 0, 0, 0], 0, 0),
        ([1, 1, 1, 0], 0, 0.75),
        ([0, 1, 1, 1], 0.75, 0.75),
        ([1, 0, 1, 1], 0.5, 0.75),
    ],
)
def test_extraction_strength_and_exact_memorization(top, strength, exact):
    """Nothing need be given, all of it, or up to the last miss.

    The end mark of an answer counts in neither.
    """
    row = evidence(scores([-1.0] * 4, top))
    assert of("extraction_strength", row) == pytest.approx(strength)
    assert of("exact_memorization", row) == pytest.approx(exact)
    marked = evidence(scores([-1.0] * 5, [*top, 1 - top[-1]]), ended=True)
    assert of("extraction_strength", marked) == pytest.approx(strength)
    assert of("exact_memorization", marked) == pytest.approx(exact)


def test_truth_ratio_in_both_definitions():
    """Wrong answers with a mean loss of 2, the paraphrase with 1: R = 1/e."""
    wrong = [scores([-1.0]), scores([-2.0, -4.0])]
    row = {"answer": scores([-9.0]), "right": scores([-1.0, -1.0]), "wrong": wrong}
    assert of("ratio", evidence(**row)) == pytest.approx(1 / math.e)
    assert of("truth_ratio", evidence(**row)) == pytest.approx(1 / math.e)
    assert of("truth_ratio", evidence(**row, role="retain")) == pytest.approx(1 - 1 / math.e)
    assert of("truth_probability", evidence(**row)) == pytest.approx(math.e / (1 + math.e))
    row["right"] = scores([-3.0])
    assert of("ratio", evidence(**row)) == pytest.approx(math.e)
    assert of("truth_ratio", evidence(**row)) == pytest.approx(1 / math.e)
    assert of("truth_ratio", evidence(**row, role="utility")) == 0


@pytest.mark.parametrize(("right", "wrong"), [(-2000.0, -1.0), (-1.0, -2000.0)])
def test_truth_ratio_of_a_model_that_fell_apart(right, wrong):
    """Losses of thousands of nats (gradient ascent reaches them) still give numbers."""
    row = evidence(scores([right]), wrong=[scores([wrong])])
    assert of("truth_ratio", row) == pytest.approx(0, abs=1e-12)
    assert of("truth_probability", row) == pytest.approx(float(right > wrong), abs=1e-12)


def test_without_a_paraphrase_the_answer_itself_is_compared():
    """TOFU's real authors and world facts have none."""
    assert of("ratio", evidence(scores([-1.0]), wrong=[scores([-3.0])])) == pytest.approx(
        math.exp(-2)
    )


def test_normalised_probability():
    """1/2 among 1/2, 1/4 and 1/4; and 0 where every answer is impossible."""
    wrong = [scores([math.log(0.25)])] * 2
    assert of(
        "normalised_probability", evidence(scores([math.log(0.5)]), wrong=wrong)
    ) == pytest.approx(0.5)
    assert of("normalised_probability", evidence(scores([-1e4]), wrong=[scores([-1e4])])) == 0


@pytest.mark.parametrize("name", ["truth_ratio", "normalised_probability", "truth_probability"])
def test_rows_without_wrong_answers_have_a_reason_not_a_zero(name):
    """What is missing is said."""
    with pytest.raises(MissingInputError, match="perturbed_answer"):
        of(name, evidence(scores([-1.0])))


def test_min_k_takes_the_least_probable_tokens():
    """40 % of five tokens are two; of two tokens one at least; the end mark does not count."""
    assert of("min_k", evidence(scores([-1.0, -2.0, -3.0, -4.0, -5.0]))) == pytest.approx(4.5)
    assert of("min_k", evidence(scores([-1.0, -2.0]))) == pytest.approx(2)
    assert of("min_k", evidence(scores([-1.0, -2.0, -9.0]), ended=True)) == pytest.approx(2)


def test_min_k_plus_plus_normalises_each_token():
    """(log p − μ) / σ, of which the lowest; a σ of 0 is √1e-6."""
    row = evidence(scores([-1.0, -5.0], expected=[-3.0, -5.5], deviation=[2.0, 0.25]))
    assert of("min_k_plus_plus", row) == pytest.approx(
        -1.0
    )  # (−1 + 3) / 2 = 1 < (−5 + 5.5) / 0.25 = 2
    assert of(
        "min_k_plus_plus", evidence(scores([-0.5], expected=[-0.4], deviation=[1e-12]))
    ) == pytest.approx(0.1 / 1e-3)


def test_zlib_and_reference():
    """The loss per compressed byte of the answer, and less another model's."""
    assert of("zlib", evidence(scores([-1.0, -3.0]), text="aaaa bbbb")) == pytest.approx(
        2 / len(zlib.compress(b"aaaa bbbb"))
    )
    assert of(
        "reference", evidence(scores([-1.0, -3.0]), reference=scores([-0.5, -0.5]))
    ) == pytest.approx(1.5)
    with pytest.raises(MissingInputError, match="--reference"):
        of("reference", evidence(scores([-1.0])))


def test_rouge_by_hand():
    """Three of the answer's four words in their order, among five written, if words are stemmed.

    Two if they are not.
    """
    row = evidence(text="the cats sat down", said="well the cat was sat")
    assert of("rouge_recall", row) == pytest.approx(3 / 4)
    for kind in ("knowledge_memorization", "verbatim_memorization"):
        assert of(f"{kind}_stemmed", row) == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
        assert of(kind, row) == pytest.approx(2 * (2 / 4) * (2 / 5) / (2 / 4 + 2 / 5))
    assert of("rouge_recall", evidence(text="the cats", said="")) == 0


def test_fluency_by_hand():
    """A word for ever repeats, different words do not.

    Entropies of 2- and 3-grams in bits; an empty answer is one.
    """
    loop, fine = evidence(said="a a a a a a"), evidence(said="a b c d e f")
    assert of("repetition", loop) == pytest.approx(2 / 3)  # three 4-grams, one of a kind
    assert of("repetition", fine) == 0
    assert of("repetition", evidence(said="a b")) == 0
    assert of("ngram_entropy", loop) == 0
    assert of("ngram_entropy", fine) == pytest.approx(
        (2 / 3 * math.log2(5) + 4 / 3 * math.log2(4)) / 2
    )
    threes = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))  # aba, bab, aba
    assert of("ngram_entropy", evidence(said="a b a b a")) == pytest.approx(
        (2 / 3 * 1 + 4 / 3 * threes) / 2
    )
    assert of("ngram_entropy", evidence(said="")) == 0
    assert [of("empty", evidence(said=said)) for said in ("", "  \n", "a")] == [1, 1, 0]


def columns(
    forget: dict | None = None, holdout: dict | None = None, retained: Columns | None = None
) -> Columns:
    """Columns of two sets."""
    given = {"forget": forget, "holdout": holdout}
    values = {
        (name, metric): np.array(numbers, float)
        for name, one in given.items()
        if one
        for metric, numbers in one.items()
    }
    return Columns(
        values, {name: name for name, one in given.items() if one}, retain_record=retained
    )


@pytest.mark.parametrize("seed", range(5))
def test_areas_with_ties_are_scikit_learns(seed):
    """Scores of few different values, sets of different sizes."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    forget, holdout = rng.integers(0, 4, 13), rng.integers(0, 5, 7)
    value = model_metrics()["membership_loss"].value(columns({"loss": forget}, {"loss": holdout}))
    assert value == pytest.approx(roc_auc_score([0] * 13 + [1] * 7, [*forget, *holdout]))


def test_areas_by_hand():
    """1 if every forget row has the smaller loss, 0 if the larger, a half if all are alike."""
    area = model_metrics()["membership_loss"].value
    assert [
        float(area(columns({"loss": mine}, {"loss": [2.0, 3.0]})))
        for mine in ([0, 1], [4, 5], [2, 3])
    ] == [1, 0, 0.5]


def test_privacy_leakage_by_hand():
    """AUC 1 against a retrained 0.5 is −100 %; the retrained one's own is 0; AUC 0 is +100 %."""
    retrained = columns({"min_k": [1, 2]}, {"min_k": [1, 2]})
    leak = model_metrics()["privacy_leakage"].value
    for mine, per_cent in (([0, 0], -100), ([1, 2], 0), ([3, 3], 100)):
        assert leak(columns({"min_k": mine}, {"min_k": [1, 2]}, retrained)) == pytest.approx(
            per_cent, abs=1e-6
        )


def test_forget_quality_by_hand():
    """Equal samples: distance 0, p-value 1.

    Apart: distance 1, and 2 of the C(6, 3) arrangements are as far apart: p = 0.1.
    """
    for theirs, distance, p in (([1, 2, 3], 0, 1), ([4, 5, 6], 1, 0.1)):
        view = columns({"ratio": [1, 2, 3]}, retained=columns({"ratio": theirs}))
        assert model_metrics()["forget_distance"].value(view) == pytest.approx(distance)
        assert model_metrics()["forget_quality"].value(view) == pytest.approx(p)


def test_model_utility_by_hand():
    """The harmonic mean of 1/2, 1/4 and 1/4 is 3/10, and one zero makes it zero."""
    for truth, utility in ((0.25, 0.3), (0.0, 0.0)):
        parts = {"answer_probability": 0.5, "rouge_recall": 0.25, "truth_ratio": truth}
        values = {("retain", name): np.array([value, value]) for name, value in parts.items()}
        assert model_metrics()["model_utility"].value(
            Columns(values, {"retain": "retain"})
        ) == pytest.approx(utility)


@pytest.mark.parametrize(
    ("name", "view", "reason"),
    [
        ("forget_quality", columns({"ratio": [1, 2]}), "--retain-record"),
        ("membership_loss", columns({"loss": [1, 2]}), "no holdout set"),
        ("privacy_leakage", columns({"min_k": [1]}, {"min_k": [2]}), "--retain-record"),
        ("model_utility", columns({"ratio": [1]}), "no retain or utility set"),
        (
            "membership_loss",
            columns({"loss": [1, math.nan]}, {"loss": [1, 2]}),
            "rows without loss",
        ),
    ],
)
def test_what_is_missing_is_a_reason(name, view, reason):
    """Never a zero, never NaN."""
    with pytest.raises(MissingInputError, match=reason):
        model_metrics()[name].value(view)


# The registry.


def test_every_file_of_metrics_is_found_without_being_named():
    """A file's METRICS are metrics, and say what they are and whose.

    A new file needs no other line anywhere.
    """
    directory = Path(metrics_package.__file__).parent
    files = sorted(path.stem for path in directory.glob("*.py") if not path.stem.startswith("_"))
    listed = [
        metric
        for stem in files
        for metric in __import__(f"{metrics_package.__name__}.{stem}", fromlist=["METRICS"]).METRICS
    ]
    assert sorted(metric.name for metric in listed) == sorted(all_metrics())
    for name, metric in all_metrics().items():
        assert metric.about and metric.source and metric.better, name
    for path in directory.glob("*.py"):
        assert path.stem == "__init__" or len(ast.get_docstring(ast.parse(path.read_text()))) > 40
    assert "answer_probability" not in (directory / "__init__.py").read_text()


def test_model_metrics_name_what_they_are_made_of(retained):
    """Every part of a model metric is a row metric, so that --metric NAME measures enough."""
    for name, metric in model_metrics().items():
        assert set(metric.uses) <= set(row_metrics()), name
    assert retained.left_out["", "model_utility"] == "retain: needs generation (--no-generate)"


def test_one_model_metric_alone_is_computed(models, data, retained, tmp_path, found):
    """--metric with a model metric measures only its parts, and gives the same number."""
    sets = [questions(tmp_path, name, ROLES[name], data[name]) for name in ROLES]
    for name, parts in (("forget_quality", {"ratio"}), ("membership_zlib", {"zlib"})):
        alone = evaluate(models[0], sets, settings(metrics=(name,)), retain_record=retained).record
        assert {metric for _, metric in alone.columns} == parts
        assert set(alone.values["model"]) == {name}
        assert alone.values["model"][name]["value"] == pytest.approx(
            found.record.values["model"][name]["value"], rel=1e-9
        )
