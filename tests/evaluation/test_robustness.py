"""Does it stay forgotten: rounded weights, relearning, other words, drawn answers.

Each leaves the model as it was.
"""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from tiny_rows import questions, rows, settings

from mpu_cli.errors import BadModelError, UsageError
from mpu_cli.evaluation.evaluate import evaluate
from mpu_cli.evaluation.metrics import row_metrics
from mpu_cli.evaluation.model_under_test import ModelUnderTest
from mpu_cli.evaluation.questions import read_questions
from mpu_cli.evaluation.relearned import curves, means_of, rate_name, worst
from mpu_cli.evaluation.robustness import all_checks
from mpu_cli.evaluation.robustness.quantization import quantized, round_to_nearest
from mpu_cli.evaluation.robustness.relearning import steps_measured
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer

QUICK = [row_metrics()[name] for name in ("answer_probability", "exact_memorization")]


def state(model) -> dict[str, bytes]:
    """Every parameter and buffer, bit for bit."""
    return {
        name: value.detach().clone().numpy().tobytes()
        for name, value in [*model.named_parameters(), *model.named_buffers()]
    }


def under_test(directory, sets, **changes) -> ModelUnderTest:
    """A model in memory with its rows."""
    return ModelUnderTest(
        load_model(directory).model, load_tokenizer(directory), sets, settings(**changes)
    )


def run(name: str, of: ModelUnderTest):
    """A check's columns."""
    return all_checks()[name].run(of, list(row_metrics().values()))


@pytest.fixture
def forget(tmp_path):
    """Twelve forget rows."""
    return questions(tmp_path, "forget", "forget", rows(12, 0))


@pytest.mark.parametrize("name", list(all_checks()))
@pytest.mark.parametrize("training", [True, False])
def test_every_check_leaves_the_model_as_it_was(name, training, tiny_pair, forget):
    """Weights bit for bit (minus zeros too), mode, gradients, generator.

    A new check is tested without being named.
    """
    of = under_test(
        tiny_pair("llama-tied").model,
        [forget],
        relearn_rates=(0.1,),
        relearn_steps=2,
        relearn_rows=3,
        samples=2,
    )
    of.model.train(training)
    with torch.no_grad():
        of.model.model.layers[0].mlp.up_proj.weight[0, :3] = torch.tensor([-0.0, 0.0, 1e-38])
    before, generator = state(of.model), torch.random.get_rng_state()
    wanted = [parameter.requires_grad for parameter in of.model.parameters()]
    found = run(name, of)
    assert found.columns
    assert all("@" in metric for _, metric in found.columns)
    assert state(of.model) == before
    assert of.model.training is training
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert [parameter.requires_grad for parameter in of.model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in of.model.parameters())


@pytest.mark.parametrize("name", ["quantization", "relearning"])
def test_weights_come_back_also_when_measuring_fails(name, tiny_pair, forget):
    """A head that is not finite is refused in the middle; the other weights are what they were."""
    of = under_test(tiny_pair("llama").model, [forget], relearn_rates=(0.1,), relearn_steps=2)
    with torch.no_grad():
        of.model.lm_head.weight[3] = torch.nan
    before = state(of.model)
    with pytest.raises(BadModelError):
        run(name, of)
    assert state(of.model) == before


# Quantization.


def by_numpy(weight: np.ndarray, bits: int, group: int) -> np.ndarray:
    """Round to nearest, a group at a time."""
    out = np.empty_like(weight)
    top = 2 ** (bits - 1) - 1
    for row, start in itertools.product(range(weight.shape[0]), range(0, weight.shape[1], group)):
        part = weight[row, start : start + group]
        scale = np.float32(np.abs(part).max() / np.float32(top))
        out[row, start : start + group] = np.rint(part / scale) * scale if scale else part
    return out


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(3, 128), (5, 300), (2, 7), (4, 256)])
def test_round_to_nearest_is_numpys(bits, shape):
    """An implementation of its own, and no entry moves more than half a step."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[0] = 0.0
    rounded = round_to_nearest(weight, bits)
    assert rounded.numpy() == pytest.approx(by_numpy(weight.numpy(), bits, 128), abs=1e-6)
    steps = torch.cat(
        [part.abs().amax(-1, keepdim=True).expand_as(part) for part in weight.split(128, -1)], -1
    ) / (2 ** (bits - 1) - 1)
    assert bool(((rounded - weight).abs() <= steps / 2 * (1 + 1e-5)).all())
    assert bool((rounded[0] == 0).all())
    assert len(rounded[1, :128].unique()) <= 2**bits - 1


def test_embeddings_norms_and_head_are_untouched(tiny_pair):
    """Only the matrices of the layers move, all of them, and more in 4 bits than in 8."""
    model = load_model(tiny_pair("llama-biased").model).model
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    moved = {}
    for bits in (8, 4):
        with quantized(model, bits):
            moved[bits] = {
                name: float((value.detach() - before[name]).norm())
                for name, value in model.named_parameters()
            }
    for name, norm in moved[4].items():
        layers = ".layers." in name and "norm" not in name and not name.endswith("bias")
        assert (norm > 0) is layers, name
        assert not layers or norm > 4 * moved[8][name] > 0


def test_groups_lie_along_the_inputs_of_conv1d_too(tiny_model):
    """GPT-2 stores its matrices transposed: an output's inputs share a scale there as anywhere."""
    model = load_model(tiny_model("gpt2")).model
    weight = model.transformer.h[0].mlp.c_fc.weight  # (D, F), inputs first
    before = weight.detach().clone()
    with quantized(model, 4):
        assert torch.equal(weight, round_to_nearest(before.T, 4).T)
        assert not torch.equal(weight, round_to_nearest(before, 4))


@pytest.mark.parametrize(("family", "inputs"), [("mixtral", -1), ("gpt-oss", -2)])
def test_an_experts_inputs_share_a_scale(family, inputs, tiny_model):
    """Stacked experts are matrices as well, whichever way they lie.

    Their biases and the router's class are not.
    """
    model = load_model(tiny_model(family)).model
    experts = model.model.layers[0].mlp.experts
    before = {name: value.detach().clone() for name, value in experts.named_parameters()}
    with quantized(model, 4):
        for name, value in before.items():
            now = experts.get_parameter(name)
            expected = (
                round_to_nearest(value.transpose(-1, inputs), 4).transpose(-1, inputs)
                if value.dim() == 3
                else value
            )
            assert torch.equal(now, expected), name
            assert value.dim() < 3 or not torch.equal(now, value)


def test_eight_bits_change_little_two_change_much(tiny_pair, forget):
    """Negative control: what is measured under the condition is the rounded model.

    Coarser is further away.
    """
    of = under_test(tiny_pair("llama").model, [forget])
    plain = of.measure(QUICK).columns["forget", "answer_probability"]
    away = {}
    for bits in (8, 4, 2):
        with quantized(of.model, bits):
            away[bits] = np.abs(
                np.log(of.measure(QUICK).columns["forget", "answer_probability"] / plain)
            ).mean()
    assert 0 < away[8] < away[4] < away[2]
    assert away[8] < 0.05 < away[2]
    found = run("quantization", of).columns
    for bits in (8, 4):
        column = np.log(found["forget", f"answer_probability@{bits}-bit"] / plain)
        assert np.abs(column).mean() == pytest.approx(away[bits], rel=1e-5)  # batches differ
    assert ("forget", "rouge_recall@4-bit") in found


def test_what_is_made_of_all_sets_is_measured_again_too(tiny_pair, tmp_path):
    """Membership, utility and forget quality of the rounded model.

    The numbers of a model whose weights are rounded on disk.
    """
    sets = [
        questions(tmp_path, name, name, rows(8, seed))
        for seed, name in enumerate(("forget", "retain", "holdout"))
    ]
    pair = tiny_pair("llama")
    retained = evaluate(pair.base, sets, settings(robustness=("quantization",))).record
    rounded = load_model(pair.model).model
    with quantized(rounded, 4):
        rounded.save_pretrained(tmp_path / "rounded")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pair.model / name, tmp_path / "rounded")
    found = evaluate(
        pair.model,
        sets,
        settings(robustness=("quantization", "paraphrase")),
        retain_record=retained,
    ).record
    again = evaluate(tmp_path / "rounded", sets, settings()).record.values["model"]
    for name in (
        "membership_loss",
        "membership_min_k",
        "membership_min_k_plus_plus",
        "membership_zlib",
        "model_utility",
    ):
        assert found.values["model"][f"{name}@4-bit"] == pytest.approx(again[name], rel=1e-6), name
    assert found.values["model"]["model_utility@4-bit"] != found.values["model"]["model_utility"]
    # Like with like: the other model's rows under the same condition.
    mine, theirs = found.columns["forget", "ratio@4-bit"], retained.columns["forget", "ratio@4-bit"]
    assert found.values["model"]["forget_quality@4-bit"]["value"] == pytest.approx(
        ks_2samp(mine, theirs).pvalue
    )
    assert not [name for name in found.values["model"] if "@paraphrased" in name]


def test_without_the_condition_in_the_retain_record_there_is_a_reason(tiny_pair, tmp_path):
    """A rounded model is not compared with a whole one."""
    forget = questions(tmp_path, "forget", "forget", rows(8, 0))
    pair = tiny_pair("llama")
    retained = evaluate(pair.base, [forget], settings(generate=False)).record
    found = evaluate(
        pair.model,
        [forget],
        settings(generate=False, robustness=("quantization",)),
        retain_record=retained,
    ).record
    assert "forget_quality" in found.values["model"]
    assert (
        found.left_out["", "forget_quality@4-bit"]
        == "the retain record: forget: no ratio@4-bit (evaluate it with the same --robustness, in"
        " mpu's own format)"
    )


# Relearning.


def test_relearning_measures_the_other_rows_only(demo, tmp_path):
    """Half of the rows at most are taught.

    The numbers of those are absent, of the others at every step.
    """
    values = (demo / "forget.jsonl").read_text().splitlines()[:20]
    (tmp_path / "forget.jsonl").write_text("\n".join(values))
    question_set = read_questions("forget", "forget", tmp_path / "forget.jsonl")
    of = under_test(
        demo / "base", [question_set], relearn_rows=6, relearn_steps=5, relearn_rates=(3e-3,)
    )
    found = run("relearning", of).columns
    conditions = [
        "relearned-0",
        *(f"relearned-{step}@3e-3" for step in (1, 2, 4, 5)),
        "relearned-worst",
    ]
    assert [metric for _, metric in found] == [
        f"answer_probability@{condition}" for condition in conditions
    ]
    absent = {tuple(np.flatnonzero(np.isnan(column))) for column in found.values()}
    assert [len(taught) for taught in absent] == [6]
    plain = of.measure(QUICK).columns["forget", "answer_probability"]
    others = ~np.isnan(found["forget", "answer_probability@relearned-0"])
    assert found["forget", "answer_probability@relearned-0"][others] == pytest.approx(plain[others])
    # The rows are of the same people: what is taught of some helps with the others.
    assert (
        np.nanmean(found["forget", "answer_probability@relearned-5@3e-3"])
        > 1.5 * plain[others].mean()
    )


def test_relearning_teaches_what_it_says(demo, tmp_path):
    """Sanity: if the taught rows are also measured, a few large steps make them nearly certain."""
    values = (demo / "forget.jsonl").read_text().splitlines()[:3]
    (tmp_path / "forget.jsonl").write_text("\n".join(values * 4))
    question_set = read_questions("forget", "forget", tmp_path / "forget.jsonl")
    found = run(
        "relearning",
        under_test(
            demo / "base",
            [question_set],
            relearn_rows=6,
            relearn_steps=8,
            relearn_rates=(5e-3,),
            batch_size=8,
        ),
    ).columns
    curve = list(curves(means_of(found, "forget"))["5e-3"].values())
    assert len(curve) == 5
    assert curve[0] < 0.15
    assert curve[-1] > 0.6
    assert curve == sorted(curve)


def test_relearning_is_one_batch_whatever_the_batch_size(demo, tmp_path):
    """A step is the mean over all tokens of the taught rows, in any number of batches."""
    (tmp_path / "forget.jsonl").write_text(
        "\n".join((demo / "forget.jsonl").read_text().splitlines()[:10])
    )
    question_set = read_questions("forget", "forget", tmp_path / "forget.jsonl")
    found = [
        run(
            "relearning",
            under_test(
                demo / "model",
                [question_set],
                relearn_rows=5,
                relearn_steps=2,
                relearn_rates=(1e-3,),
                batch_size=size,
            ),
        ).columns
        for size in (16, 2)
    ]
    for key, column in found[0].items():
        assert column == pytest.approx(found[1][key], rel=1e-3, nan_ok=True), key


def test_every_rate_begins_with_the_same_weights(demo, tmp_path):
    """A rate's curve is the same alone and after others.

    The worst is the highest mean of all, and the weights are as they were.
    """
    (tmp_path / "forget.jsonl").write_text(
        "\n".join((demo / "forget.jsonl").read_text().splitlines()[:10])
    )
    question_set = read_questions("forget", "forget", tmp_path / "forget.jsonl")
    of = under_test(
        demo / "base", [question_set], relearn_rows=5, relearn_steps=4, relearn_rates=(1e-5, 5e-3)
    )
    weights = {name: value.clone() for name, value in of.model.state_dict().items()}
    both = run("relearning", of).columns
    assert all(torch.equal(value, weights[name]) for name, value in of.model.state_dict().items())
    alone = run(
        "relearning",
        under_test(
            demo / "base", [question_set], relearn_rows=5, relearn_steps=4, relearn_rates=(5e-3,)
        ),
    ).columns
    for key in alone:
        np.testing.assert_array_equal(both[key], alone[key])
    found = curves(means_of(both, "forget"))
    assert list(found) == ["1e-5", "5e-3"]
    assert all(list(curve) == [0, 1, 2, 4] for curve in found.values())
    highest = worst(means_of(both, "forget"))
    assert (highest.rate, highest.value) == ("5e-3", max(found["5e-3"].values()))
    assert np.nanmean(both["forget", "answer_probability@relearned-worst"]) == pytest.approx(
        highest.value
    )


def test_a_rate_that_breaks_the_model_leaves_the_others(demo, tmp_path):
    """At a rate at which the logits overflow there is a reason; what lower rates found stands."""
    (tmp_path / "forget.jsonl").write_text(
        "\n".join((demo / "forget.jsonl").read_text().splitlines()[:6])
    )
    question_set = read_questions("forget", "forget", tmp_path / "forget.jsonl")
    of = under_test(
        demo / "base", [question_set], relearn_rows=3, relearn_steps=2, relearn_rates=(1e-3, 0.99)
    )
    plain, calls = of.measure, []

    def breaking(*arguments, **more):
        calls.append(1)
        if len(calls) > 3:  # steps 0, 1 and 2 of the first rate
            raise BadModelError("logits that are not finite")
        return plain(*arguments, **more)

    of.measure = breaking
    found = run("relearning", of)
    assert found.reasons == {
        (
            "forget",
            "answer_probability@relearned@9.9e-1",
        ): "training broke the model (logits that are not finite)"
    }
    assert ("forget", "answer_probability@relearned-worst") in found.columns


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ({"answer_probability": 0.3}, {}),
        # an earlier mpu's
        (
            {"answer_probability@relearned-0": 0.1, "answer_probability@relearned-2": 0.4},
            {"": {0: 0.1, 2: 0.4}},
        ),
        (
            {
                "answer_probability@relearned-2@3e-4": 0.4,
                "answer_probability@relearned-0": 0.1,
                "answer_probability@relearned-1@1e-5": 0.2,
                "answer_probability@relearned-worst": 0.4,
                "rouge_recall@relearned-1@1e-5": 1.0,
            },
            {"3e-4": {0: 0.1, 2: 0.4}, "1e-5": {0: 0.1, 1: 0.2}},
        ),
    ],
)
def test_curves_of_old_and_new_records(means, expected):
    """By rate, each from step 0; nothing else is taken for a curve."""
    assert curves(means) == expected


@pytest.mark.parametrize(
    ("rate", "name"), [(3e-4, "3e-4"), (1e-5, "1e-5"), (0.00015, "1.5e-4"), (0.1, "1e-1")]
)
def test_a_rate_has_one_name(rate, name):
    """The shortest, without leading zeros."""
    assert rate_name(rate) == name


@pytest.mark.parametrize(
    "rates",
    [(), (0.0,), (1.0,), (1e-4, 1e-4), tuple(i / 10 for i in range(1, 10)), (float("nan"),)],
)
def test_rates_that_mean_nothing(rates):
    """None, out of range, one twice, or more than eight."""
    with pytest.raises(UsageError, match="--relearn-rate"):
        settings(relearn_rates=rates)


def test_steps_are_measured_on_a_doubling_grid():
    """0, 1, 2, 4 … and the last."""
    assert [steps_measured(last) for last in (1, 4, 20)] == [
        [0, 1],
        [0, 1, 2, 4],
        [0, 1, 2, 4, 8, 16, 20],
    ]


def test_steps_to_recover(demo, tmp_path):
    """A model that never forgot needs 0 steps, a base some; a reason if none suffices."""
    (tmp_path / "forget.jsonl").write_text(
        "\n".join((demo / "forget.jsonl").read_text().splitlines()[:12])
    )
    question_set = read_questions("forget", "forget", tmp_path / "forget.jsonl")
    before = evaluate(demo / "model", [question_set], settings(generate=False)).record
    assert before.values["forget"].get("relearning_steps") is None

    def steps(model, rate):
        asked = settings(
            generate=False,
            robustness=("relearning",),
            relearn_steps=2,
            relearn_rows=3,
            relearn_rates=(rate,),
        )
        return evaluate(demo / model, [question_set], asked, before=before).record

    assert steps("model", 1e-6).values["forget"]["relearning_steps"] == {"value": 0.0}
    never = steps("base", 1e-6)
    assert "relearning_steps" not in never.values["forget"]
    assert (
        never.left_out["forget", "relearning_steps"] == "90% of --before is not reached in 2 steps"
    )


def test_steps_to_recover_are_the_first_that_are_enough(demo, tmp_path):
    """The base relearns rows that it is taught.

    The step is the first of the curve at 90 % of what was before.
    """
    (tmp_path / "forget.jsonl").write_text(
        "\n".join((demo / "forget.jsonl").read_text().splitlines()[:3] * 4)
    )
    question_set = read_questions("forget", "forget", tmp_path / "forget.jsonl")
    before = evaluate(demo / "model", [question_set], settings(generate=False)).record
    asked = settings(
        generate=False,
        robustness=("relearning",),
        relearn_steps=16,
        relearn_rows=6,
        relearn_rates=(5e-3,),
    )
    found = evaluate(demo / "base", [question_set], asked, before=before).record
    step = int(found.values["forget"]["relearning_steps"]["value"])
    (curve,) = curves(means_of(found.columns, "forget")).values()
    enough = [
        s
        for s, value in curve.items()
        if value >= 0.9 * before.columns["forget", "answer_probability"].mean()
    ]
    assert step == enough[0] > 1


def test_one_row_cannot_be_relearned(tiny_pair, tmp_path):
    """There would be no other row: a reason, no number."""
    of = under_test(tiny_pair("llama").model, [questions(tmp_path, "forget", "forget", rows(1, 0))])
    found = run("relearning", of)
    assert not found.columns
    assert list(found.reasons.values()) == ["fewer than two rows"]


# Paraphrase.


def test_paraphrase_asks_the_other_question(tiny_pair, tmp_path, forget):
    """The same numbers as a file that asks so in the first place; ROUGE too."""
    asked = [{**row, "question": row["paraphrased_question"]} for row in rows(12, 0)]
    (tmp_path / "other").mkdir()
    plain = evaluate(
        tiny_pair("llama").model, [forget], settings(robustness=("paraphrase",))
    ).record
    other = evaluate(
        tiny_pair("llama").model,
        [questions(tmp_path / "other", "forget", "forget", asked)],
        settings(),
    ).record
    for metric in ("answer_probability", "extraction_strength", "rouge_recall"):
        assert plain.columns["forget", f"{metric}@paraphrased"] == pytest.approx(
            other.columns["forget", metric], rel=1e-5, abs=1e-7
        )
    assert plain.columns["forget", "answer_probability@paraphrased"] != pytest.approx(
        plain.columns["forget", "answer_probability"]
    )


def test_rows_without_another_question_have_a_reason(tiny_pair, tmp_path):
    """One row without is enough."""
    values = rows(3, 0)
    del values[1]["paraphrased_question"]
    found = run(
        "paraphrase",
        under_test(tiny_pair("llama").model, [questions(tmp_path, "forget", "forget", values)]),
    )
    assert not found.columns
    assert list(found.reasons.values()) == ["rows without paraphrased_question"]


# Leak.


def test_more_tries_leak_no_less(tiny_pair, forget):
    """leak@1 ≤ leak@2 ≤ leak@4 for every row, and more somewhere; the seed decides."""
    found = [
        run("leak", under_test(tiny_pair("llama").model, [forget], samples=5, seed=seed)).columns
        for seed in (0, 0, 1)
    ]
    assert [metric for _, metric in found[0]] == [f"rouge_recall@leak-{k}" for k in (1, 2, 4)]
    one, two, four = found[0].values()
    assert bool((one <= two + 1e-12).all() and (two <= four + 1e-12).all())
    assert four.mean() > one.mean() > 0
    assert np.array_equal(four, found[1]["forget", "rouge_recall@leak-4"])
    assert not np.array_equal(four, found[2]["forget", "rouge_recall@leak-4"])


def test_drawn_answers_do_not_depend_on_the_batch(tiny_pair, forget):
    """The same numbers whatever --batch-size."""
    one, other = (
        run(
            "leak", under_test(tiny_pair("llama").model, [forget], samples=4, batch_size=size)
        ).columns
        for size in (3, 16)
    )
    assert all(np.array_equal(one[key], other[key]) for key in one)


def test_plain_texts_do_not_leak_answers(tiny_pair, tmp_path):
    """A reason, no number."""
    found = run(
        "leak",
        under_test(
            tiny_pair("llama").model,
            [questions(tmp_path, "forget", "forget", [{"text": "w1 w2 w3"}])],
        ),
    )
    assert not found.columns
    assert list(found.reasons.values()) == ["plain texts have no answers that could leak"]


def test_every_check_says_what_it_is_and_whose():
    """For --list-metrics."""
    for name, check in all_checks().items():
        assert (check.name, bool(check.about), bool(check.source)) == (name, True, True)
