"""Scores do not depend on batches, order or padding; the model is left as it was."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_rows import questions, rows, settings, words

from mpu_cli.data.batches import collate
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.errors import BadModelError
from mpu_cli.evaluation import scoring
from mpu_cli.evaluation.evaluate import evaluate
from mpu_cli.evaluation.scoring import score
from mpu_cli.modeling.load import load_model

LEARNED, ROTARY = ("gpt2", "opt"), ("llama", "mistral", "mixtral")


@pytest.fixture(scope="module")
def texts() -> list[TokenizedRow]:
    """Texts of 3 to 40 tokens, the labels after a prompt."""
    rng = random.Random(0)
    made = []
    for length in (3, 40, 7, 21, 4, 33, 12, 5, 26):
        ids = tuple(rng.randrange(2, 64) for _ in range(length))
        prompt = rng.randrange(1, length - 1)
        made.append(TokenizedRow(ids, tuple([-100] * prompt) + ids[prompt:]))
    return made


def run(model, texts, batch_size=4, pad_id=0):
    """Scores of texts."""
    return score(
        model, texts, [f"rows.jsonl:{i}" for i in range(1, len(texts) + 1)], batch_size, pad_id
    )


def same(one, other, tolerance=1e-6) -> bool:
    """Whether all arrays agree."""
    return all(
        np.allclose(getattr(a, name), getattr(b, name), rtol=0, atol=tolerance)
        for a, b in zip(one, other, strict=True)
        for name in ("log_p", "expected", "deviation", "is_top")
    )


@pytest.mark.parametrize(
    "family", [*LEARNED, "llama", "mistral"]
)  # transformers' experts know no float64
def test_batches_order_and_padding_change_nothing(family, tiny_model, texts):
    """One at a time, all at once, backwards, filled with another token.

    The same within 1e-6 (float64).
    """
    model = load_model(tiny_model(family)).model.double()
    alone = run(model, texts, 1)
    for other in (
        run(model, texts, 9),
        run(model, texts, 4),
        run(model, texts[::-1], 4)[::-1],
        run(model, texts, 9, pad_id=5),
    ):
        assert same(alone, other)


@pytest.mark.parametrize("family", [*LEARNED, *ROTARY])
def test_batches_change_nothing_in_float32(family, tiny_model, texts):
    """In the precision that is used, the probabilities agree within 1e-6."""
    model = load_model(tiny_model(family)).model
    for a, b in zip(run(model, texts, 1), run(model, texts, 9), strict=True):
        assert np.exp(-a.mean_loss) == pytest.approx(np.exp(-b.mean_loss), abs=1e-6)


def test_padding_that_were_attended_to_would_be_seen(tiny_model, texts):
    """Negative control: without the attention mask, or padded at the left, scores differ."""
    model = load_model(tiny_model("gpt2")).model.double()
    rows = collate(texts, 0)
    length = rows["input_ids"].shape[1]
    left = {
        name: torch.stack(
            [
                torch.roll(v, length - len(t.input_ids))
                for v, t in zip(rows[name], texts, strict=True)
            ]
        )
        for name in rows
    }
    with torch.no_grad():
        shifted = scoring.labelled_predictions(
            model, {**left, "attention_mask": torch.ones_like(left["attention_mask"])}
        )
        right = scoring.labelled_predictions(model, rows)
    assert not torch.allclose(shifted[0], right[0], atol=1e-3)


def test_long_texts_go_in_smaller_batches(tiny_model, texts, monkeypatch):
    """No batch of several texts has more places than allowed.

    The scores are the same, a text of its own is never refused.
    """
    model = load_model(tiny_model("llama")).model.double()
    before = run(model, texts, 9)
    seen = []
    monkeypatch.setattr(scoring, "_LOGITS", 64 * 50)
    model.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    assert same(run(model, texts, 9), before)
    assert all(shape[0] == 1 or shape[0] * shape[1] <= 50 for shape in seen)
    assert sum(shape[0] for shape in seen) == len(texts)
    assert len(seen) > 2


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_generators_are_put_back(training, tiny_model, texts):
    """Training mode, gradients and generator are restored, also when a text is refused."""
    model = load_model(tiny_model("llama")).model.train(training)
    state = torch.random.get_rng_state()
    run(model, texts)
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    with pytest.raises(BadModelError):
        run(model, texts)
    assert model.training is training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off(tiny_model, texts):
    """A model that is in training mode with dropout is measured without."""
    model = load_model(tiny_model("gpt2"), keep_dropout=True).model.train()
    assert any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())
    assert same(run(model, texts), run(model, texts))


def test_progress_counts_tokens(tiny_model, texts):
    """Padding is not counted; the last call says all."""
    told = []
    score(
        load_model(tiny_model("llama")).model,
        texts,
        ["x"] * 9,
        4,
        0,
        lambda done, total: told.append((done, total)),
    )
    total = sum(len(text.input_ids) for text in texts)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (total, total)


@pytest.mark.parametrize(
    "where", ["lm_head.weight", "model.norm.weight", "model.layers.1.mlp.down_proj.weight"]
)
def test_logits_that_are_not_finite_are_refused_with_the_row(where, tiny_pair, tmp_path):
    """NaN or infinity anywhere in the weights: one line that names a row, no number."""
    model = shutil.copytree(tiny_pair("llama").model, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights[where].view(-1)[5] = torch.inf
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        BadModelError, match=r"forget\.jsonl:\d+: the model's logits are not finite"
    ):
        evaluate(
            model, [questions(tmp_path, "forget", "forget", rows(4, 0))], settings(generate=False)
        )


def test_the_order_of_rows_does_not_change_their_numbers(tiny_pair, tmp_path):
    """A shuffled file gives every row the same number, a batch of another size too."""
    values = rows(9, 1)
    order = [4, 1, 8, 0, 7, 3, 2, 6, 5]
    (tmp_path / "other").mkdir()
    one = evaluate(
        tiny_pair("llama").model, [questions(tmp_path, "forget", "forget", values)], settings()
    ).record
    shuffled = questions(tmp_path / "other", "forget", "forget", [values[i] for i in order])
    other = evaluate(tiny_pair("llama").model, [shuffled], settings(batch_size=2)).record
    for key, column in one.columns.items():
        assert other.columns[key] == pytest.approx(column[order], abs=1e-5, rel=1e-5), key
    assert one.sets["forget"].digest != other.sets["forget"].digest


def test_plain_texts_count_every_token_but_the_first(tiny_pair, tmp_path):
    """A text of n tokens has n − 1 scores, and its loss is transformers' own."""
    from transformers import AutoModelForCausalLM

    text = words(random.Random(5), 12, 12)
    question_set = questions(tmp_path, "forget", "forget", [{"text": text}])
    found = evaluate(
        tiny_pair("llama").model,
        [question_set, questions(tmp_path, "holdout", "holdout", [{"text": text}])],
        settings(),
    ).record
    ids = torch.tensor([[int(word[1:]) + 5 for word in text.split()]])
    loss = AutoModelForCausalLM.from_pretrained(tiny_pair("llama").model, dtype=torch.float64)(
        ids, labels=ids
    ).loss.item()
    assert found.columns["forget", "loss"][0] == pytest.approx(loss, rel=1e-6)
    assert found.values["model"]["membership_loss"]["value"] == 0.5
