"""The training loop: order, accumulation, determinism, silence and refusals."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mpu_cli.data.batches import collate, epoch_pairs
from mpu_cli.data.templates import IGNORED, TokenizedRow
from mpu_cli.errors import CheckFailedError, UsageError
from mpu_cli.modeling.logprobs import answer_nll, batch_nll, token_mean_nll
from mpu_cli.training import optimizers
from mpu_cli.training.distributed import choose_shared_device
from mpu_cli.training.report import TrainingReport
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.trainer import UnlearningTrainer, train
from mpu_cli.training.training_sets import TrainingSets
from tiny_models import make_model

SETTINGS = TrainingSettings(epochs=2, learning_rate=1e-3, batch_size=4, device="cpu", seed=3)


def rows(count: int, first: int, length: int = 8) -> list[TokenizedRow]:
    """Rows of equal length whose first token tells which row it is."""
    made = []
    for i in range(count):
        body = torch.randint(
            200, 320, (length - 1,), generator=torch.Generator().manual_seed(first + i)
        ).tolist()
        ids = (first + i, *body)
        made.append(TokenizedRow(ids, (IGNORED,) * 3 + ids[3:]))
    return made


FORGET, RETAIN = rows(8, 10), rows(5, 100)


def descent(model: Any, batch: Any) -> torch.Tensor:
    """The token-mean NLL of the forget rows, plus that of the retain rows if there are any."""
    loss = token_mean_nll(model, batch["forget"])
    return loss + token_mean_nll(model, batch["retain"]) if "retain" in batch else loss


def run(
    model: Any = None,
    settings: TrainingSettings = SETTINGS,
    *,
    loss: Any = descent,
    inputs: Collection[str] = frozenset({"retain"}),
    load_reference: Any = None,
    context: dict[str, Any] | None = None,
    **sets: Any,
) -> tuple[Any, TrainingReport]:
    """Train a tiny model and return it with the report.

    `context` is what `RunContext` takes, `sets` what `TrainingSets` takes.
    """
    model = make_model() if model is None else model
    rows = TrainingSets(**{"forget": FORGET, "retain": RETAIN, **sets})
    device = choose_shared_device(settings, len(rows.forget), inputs)
    report = train(
        model,
        loss,
        frozenset(inputs),
        rows,
        settings,
        RunContext(device, **(context or {})),
        load_reference=load_reference,
    )
    return model, report


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def distance(one: Any, other: Any) -> float:
    """Largest difference between two models' weights."""
    ours, theirs = weights(one), weights(other)
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def recorder(seen: list[tuple[int, int | None]]) -> Callable[[Any, Any], torch.Tensor]:
    """A loss that notes which rows it was given."""

    def loss(model: Any, batch: Any) -> torch.Tensor:
        forget = [int(i) - 10 for i in batch["forget"]["input_ids"][:, 0]]
        retain = (
            [int(i) - 100 for i in batch["retain"]["input_ids"][:, 0]]
            if "retain" in batch
            else [None] * len(forget)
        )
        seen.extend(zip(forget, retain, strict=True))
        return descent(model, batch)

    return loss


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_every_copy_sees_the_same_rows_at_the_same_step(family: str) -> None:
    """The rows of every epoch are those of epoch_pairs, whatever the model."""
    seen: list[tuple[int, int | None]] = []
    run(make_model(family), replace(SETTINGS, epochs=3, batch_size=3), loss=recorder(seen))
    expected = [pair for epoch in range(3) for pair in epoch_pairs(3, epoch, 8, 5)]
    assert seen == expected
    assert seen[:8] != seen[8:16]


def test_same_seed_same_bits() -> None:
    """Two runs give the same bits from any state of the generators; another seed does not."""
    first, report = run()
    torch.manual_seed(99)
    second, again = run()
    assert distance(first, second) == 0
    assert (report.first_loss, report.last_loss) == (again.first_loss, again.last_loss)
    assert distance(first, run(settings=replace(SETTINGS, seed=4))[0]) > 0


@pytest.fixture
def plain_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the optimizer by gradient descent, which shows the gradient's scale."""
    spec = optimizers.OptimizerSpec(
        "sgd", "test", True, lambda groups, rate, config: torch.optim.SGD(groups, lr=rate)
    )
    monkeypatch.setattr(optimizers, "get", lambda name: spec)


ACCUMULATED = replace(
    SETTINGS, batch_size=4, gradient_accumulation=2, max_grad_norm=0.0, learning_rate=0.05
)


@pytest.mark.usefixtures("plain_descent")
def test_accumulation_equals_a_larger_batch() -> None:
    """Batch 4 with accumulation 2 equals batch 8 for rows of equal length."""
    small, report = run(settings=ACCUMULATED, inputs=frozenset())
    large, expected = run(
        settings=replace(ACCUMULATED, batch_size=8, gradient_accumulation=1), inputs=frozenset()
    )
    assert report.steps == expected.steps == 2
    assert report.first_loss == pytest.approx(expected.first_loss, rel=1e-6)
    assert distance(small, large) <= 1e-7 < 1e-3 < distance(small, make_model())


@pytest.mark.usefixtures("plain_descent")
def test_accumulation_would_be_wrong_if_the_loss_were_called_scaled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control: with Trainer's division switched off, the same comparison fails."""
    large, _ = run(
        settings=replace(ACCUMULATED, batch_size=8, gradient_accumulation=1), inputs=frozenset()
    )
    monkeypatch.setattr(UnlearningTrainer, "loss_is_scaled_for_ga", True)
    small, _ = run(settings=ACCUMULATED, inputs=frozenset())
    assert distance(small, large) > 1e-3


@pytest.mark.usefixtures("plain_descent")
def test_steps_are_the_gradient_of_the_loss() -> None:
    """Steps of gradient descent through Trainer equal steps made by hand."""
    settings = replace(ACCUMULATED, batch_size=8, gradient_accumulation=1, epochs=4)
    model, _ = run(settings=settings, inputs=frozenset())
    expected = make_model()
    for _ in range(4):
        expected.zero_grad()
        token_mean_nll(expected, collate(FORGET, 0)).backward()
        with torch.no_grad():
            for parameter in expected.parameters():
                parameter -= 0.05 * parameter.grad
    assert distance(model, expected) <= 1e-6


def test_uneven_last_batch_and_steps() -> None:
    """8 rows at batch 3 and accumulation 2 make 2 steps an epoch; max_steps never adds epochs."""
    settings = replace(SETTINGS, batch_size=3, gradient_accumulation=2)
    calls: list[tuple[int, int]] = []
    _, report = run(
        settings=settings,
        context={"on_step": lambda step, total, loss: calls.append((step, total))},
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert report.steps == 4
    assert run(settings=replace(settings, max_steps=3))[1].steps == 3
    assert run(settings=replace(settings, max_steps=300))[1].steps == 4


def test_losses_are_reported() -> None:
    """The callback gets each step's loss before its update, and the loss falls."""
    losses: list[float] = []
    start = answer_nll(make_model(), FORGET, 8, 0)
    mean = sum(nll for nll, _ in start) / sum(tokens for _, tokens in start)
    _, report = run(
        settings=replace(SETTINGS, batch_size=8, epochs=4),
        inputs=frozenset(),
        context={"on_step": lambda step, total, loss: losses.append(loss)},
    )
    assert losses[0] == report.first_loss == pytest.approx(mean, rel=1e-6)
    assert losses[-1] == report.last_loss < losses[0]
    assert report.seconds > 0


def test_reference_is_the_model_before_the_first_step() -> None:
    """The reference NLLs are those of the model before training, in every epoch."""
    expected = answer_nll(make_model(), FORGET, 4, 0)
    checked = 0

    def loss(model: Any, batch: Any) -> torch.Tensor:
        nonlocal checked
        for first, nll in zip(
            batch["forget"]["input_ids"][:, 0], batch["reference"]["forget_nll"], strict=True
        ):
            assert nll.item() == pytest.approx(expected[int(first) - 10][0], rel=1e-6)
            checked += 1
        return descent(model, batch)

    model, _ = run(loss=loss, inputs=frozenset({"forget_nll"}))
    assert checked == 16
    assert answer_nll(model, FORGET[:1], 1, 0)[0][0] != pytest.approx(expected[0][0], rel=1e-3)


def test_reference_has_the_precision_of_the_run() -> None:
    """In bfloat16 the first step's NLLs equal the reference, so NPO starts from a ratio of 1."""
    differences: list[float] = []

    def loss(model: Any, batch: Any) -> torch.Tensor:
        nll, _ = batch_nll(model, batch["forget"])
        differences.append(float((nll.detach() / batch["reference"]["forget_nll"] - 1).abs().max()))
        return nll.mean()

    run(
        settings=replace(SETTINGS, precision="bfloat16", batch_size=8),
        loss=loss,
        inputs=frozenset({"forget_nll"}),
    )
    assert differences[0] <= 1e-6
    exact = answer_nll(make_model(), FORGET, 8, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = answer_nll(make_model(), FORGET, 8, 0)
    # Negative control: the two precisions do differ by more than that.
    assert max(abs(a / b - 1) for (a, _), (b, _) in zip(exact, half, strict=True)) > 1e-5


def test_only_what_is_needed_is_in_the_batch() -> None:
    """Retain rows and reference are in the batch if the loss needs them, and else not."""
    keys: list[set[str]] = []

    def loss(model: Any, batch: Any) -> torch.Tensor:
        keys.append(set(batch))
        return token_mean_nll(model, batch["forget"])

    one_step = replace(SETTINGS, max_steps=1)
    for needs in ((), ("retain",), ("forget_nll",), ("retain", "forget_nll")):
        run(settings=one_step, loss=loss, inputs=frozenset(needs))
        assert keys.pop() == {
            "forget",
            *("reference" if need == "forget_nll" else need for need in needs),
        }
    with pytest.raises(ValueError, match="needs retain rows"):
        run(retain=None)


@pytest.mark.parametrize("name", optimizers.names())
def test_frozen_parameters_do_not_move(name: str) -> None:
    """Frozen weights keep their bits under every optimizer and weight decay; the rest moves."""
    model = make_model()
    model.model.embed_tokens.weight.requires_grad_(False)
    before = weights(model)
    run(model, replace(SETTINGS, optimizer=name, weight_decay=0.1))
    moved = {key for key, value in weights(model).items() if not torch.equal(value, before[key])}
    assert moved == set(before) - {"model.embed_tokens.weight"}


def test_weight_decay_spares_norms_and_biases() -> None:
    """With a gradient of zero only matrices shrink."""
    model = make_model()
    before = weights(model)

    def loss(model: Any, batch: Any) -> torch.Tensor:
        return 0.0 * descent(model, batch)

    run(model, replace(SETTINGS, weight_decay=0.1), loss=loss)
    for name, value in weights(model).items():
        assert torch.equal(value, before[name]) == (value.dim() == 1)


def test_bfloat16_is_autocast_over_float32() -> None:
    """Weights stay float32, the run differs a little, and forward() is unwrapped afterwards."""
    exact, full = run()
    model, half = run(settings=replace(SETTINGS, precision="bfloat16"))
    assert all(value.dtype == torch.float32 for value in weights(model).values())
    assert half.last_loss != full.last_loss
    assert half.last_loss == pytest.approx(full.last_loss, rel=0.02)
    ids = torch.tensor([FORGET[0].input_ids])
    twin = make_model()
    twin.load_state_dict(weights(model))
    assert torch.equal(model(ids).logits, twin(ids).logits)
    assert distance(run()[0], exact) == 0


def test_environment_does_not_change_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate's environment variable does not override the settings."""
    exact, _ = run()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert distance(run()[0], exact) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite(value: float) -> None:
    """The run stops at the step at which the loss is not a number, and says what to do."""
    calls = 0

    def loss(model: Any, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return descent(model, batch) * (value if calls == 3 else 1.0)

    with pytest.raises(CheckFailedError, match="step 3: the loss is") as caught:
        run(loss=loss)
    assert "--learning-rate" in str(caught.value.hint)
    assert caught.value.exit_code == 1


def test_gradient_that_is_not_finite() -> None:
    """A NaN in the last step's gradient, which no later loss shows, is found in the weights."""

    def loss(model: Any, batch: Any) -> torch.Tensor:
        value = descent(model, batch)
        return value + (0.0 * value).sqrt()

    with pytest.raises(CheckFailedError, match=r"after step 1: .* is NaN or infinite"):
        run(settings=replace(SETTINGS, max_steps=1), loss=loss)


def test_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for a GPU on a machine without one is a usage error."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device cuda"):
        run(settings=replace(SETTINGS, device="cuda"))


def test_leaves_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Nothing is printed, no file is left, and the model's configuration and mode are restored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    model = make_model()
    before = model.config.to_dict()
    environment = dict(os.environ)
    capfd.readouterr()
    run(model)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert list(tmp_path.iterdir()) == []
    assert model.config.to_dict() == before
    assert not model.training
    assert dict(os.environ) == environment


def test_the_temporary_directory_stays_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainer makes no directory, and the references lie in a nameless file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found: list[list[Path]] = []
    context = {"on_step": lambda step, total, loss: found.append(list(tmp_path.iterdir()))}
    run(inputs=frozenset({"retain", "retain_logits"}), context=context)
    assert found == [[]] * 4
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("plain_descent")
@pytest.mark.parametrize(("partial_step", "factor"), [("mean", 1.0), ("share", 1 / 4)])
def test_the_last_step_of_an_epoch(partial_step: Any, factor: float) -> None:
    """With ten rows in steps of 4 passes of 2, the last pass counts whole, or by its share."""
    settings = replace(
        SETTINGS,
        epochs=1,
        batch_size=2,
        gradient_accumulation=4,
        max_grad_norm=0.0,
        learning_rate=0.05,
    )
    ten = rows(10, 10)
    model, report = run(
        settings=replace(settings, partial_step=partial_step), inputs=frozenset(), forget=ten
    )
    assert report.steps == 2
    expected, order = make_model(), [i for i, _ in epoch_pairs(3, 0, 10, 0)]
    for places, share in ((order[:8], 1.0), (order[8:], factor)):
        expected.zero_grad()
        token_mean_nll(expected, collate([ten[i] for i in places], 0)).backward()
        with torch.no_grad():
            for parameter in expected.parameters():
                parameter -= 0.05 * share * parameter.grad
    assert distance(model, expected) <= 1e-6


@pytest.mark.parametrize("decay_all", [False, True])
def test_what_weight_decay_touches(decay_all: bool) -> None:
    """With a zero gradient the decay moves matrices, and norms and biases only with `decay_all`."""
    settings = replace(
        SETTINGS,
        optimizer="adamw",
        epochs=1,
        batch_size=8,
        weight_decay=0.5,
        learning_rate=1e-2,
        decay_all=decay_all,
    )
    model, _ = run(
        make_model("qwen2"), settings, loss=lambda model, batch: 0.0 * descent(model, batch)
    )
    for name, before in weights(make_model("qwen2")).items():
        small = "norm" in name or name.endswith("bias")
        expected = before * (1 - 0.5 * 1e-2) if decay_all or not small else before
        assert torch.allclose(weights(model)[name], expected, rtol=1e-6, atol=0), name


@pytest.mark.parametrize("optimizer", optimizers.names())
def test_pure_bfloat16_stays_bfloat16(optimizer: str) -> None:
    """Weights that come in bfloat16 leave in bfloat16, moved and finite, under every optimizer."""
    model = make_model().to(torch.bfloat16)
    before = weights(model)
    settings = replace(SETTINGS, optimizer=optimizer, precision="pure-bfloat16", learning_rate=0.05)
    run(model, settings)
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {
        torch.bfloat16
    }
    assert any(not torch.equal(value, before[name]) for name, value in weights(model).items())


def test_alternates_of_each_epoch() -> None:
    """With twice as many alternates as rows, the second epoch gets the second half."""
    seen: list[tuple[int, int, float]] = []

    def loss(model: Any, batch: Any) -> torch.Tensor:
        first = [int(ids[0]) for ids in batch["alternate"]["input_ids"]]
        forget = [int(ids[0]) - 10 for ids in batch["forget"]["input_ids"]]
        seen.extend(zip(forget, first, batch["reference"]["alternate_nll"].tolist(), strict=True))
        return descent(model, batch)

    alternates = rows(16, 30)
    known = {30 + i: nll for i, (nll, _) in enumerate(answer_nll(make_model(), alternates, 4, 0))}
    run(loss=loss, inputs=frozenset({"alternate", "alternate_nll"}), alternates=alternates)
    assert len(seen) == 16
    for step, (forget, alternate, nll) in enumerate(seen):
        assert alternate == 30 + forget + 8 * (step // 8)
        assert nll == pytest.approx(known[alternate], rel=1e-5)


def test_a_reference_of_another_model() -> None:
    """References come from the model that is loaded for them, not from the trained one."""
    seen: list[tuple[int, float]] = []

    def loss(model: Any, batch: Any) -> torch.Tensor:
        places = [int(ids[0]) - 10 for ids in batch["forget"]["input_ids"]]
        seen.extend(zip(places, batch["reference"]["forget_nll"].tolist(), strict=True))
        return descent(model, batch)

    other = make_model(seed=5)
    expected = [nll for nll, _ in answer_nll(other, FORGET, 4, 0)]
    own = [nll for nll, _ in answer_nll(make_model(), FORGET, 4, 0)]
    assert max(abs(a - b) for a, b in zip(expected, own, strict=True)) > 1e-2
    run(loss=loss, inputs=frozenset({"forget_nll"}), load_reference=lambda: other)
    assert len(seen) == 16 and all(
        nll == pytest.approx(expected[place], rel=1e-5) for place, nll in seen
    )
