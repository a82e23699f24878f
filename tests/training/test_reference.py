"""References: what the model said before its first step, found again by row."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpu_cli.data.templates import IGNORED, TokenizedRow
from mpu_cli.errors import OutputError, UsageError
from mpu_cli.modeling.hidden import freeze_above, resolve_layer
from mpu_cli.training import token_file
from mpu_cli.training.reference import prepare, reference_bytes
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.training_sets import TrainingSets
from tiny_models import make_model


def row(seed: int, length: int, prompt: int) -> TokenizedRow:
    """Random tokens, the first `prompt` of them unlabelled."""
    ids = tuple(
        torch.randint(5, 320, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    )
    return TokenizedRow(ids, (IGNORED,) * prompt + ids[prompt:])


FORGET = [row(1, 9, 4), row(2, 6, 2), row(3, 12, 9), row(4, 5, 0)]
RETAIN = [row(10 + i, 5 + i, i % 4) for i in range(11)]
ALTERNATES = [row(30 + i, 7, 3) for i in range(4)]
SETTINGS = TrainingSettings(epochs=2, batch_size=3, device="cpu", seed=1)
SETS = TrainingSets(FORGET, RETAIN, 0, ALTERNATES)
ALL = {
    "retain",
    "alternate",
    "forget_nll",
    "alternate_nll",
    "forget_logits",
    "retain_logits",
    "hidden:1",
    "retain_hidden",
}


def alone(model: Any, encoded: TokenizedRow) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row's predicting logits, their ℓ_t, and layer 1's states at labelled tokens."""
    with torch.no_grad():
        output = model(torch.tensor([encoded.input_ids]), output_hidden_states=True)
    labels = encoded.labels
    at = [t for t in range(1, len(labels)) if labels[t] != IGNORED]
    own = [t for t in range(len(labels)) if labels[t] != IGNORED]
    logits = output.logits[0][[t - 1 for t in at]]
    nll = -logits.double().log_softmax(-1)[range(len(at)), [labels[t] for t in at]]
    return logits.numpy(), nll.numpy(), output.hidden_states[2][0][own].numpy()


@pytest.fixture
def model() -> Any:
    """A tiny model of four layers."""
    return make_model(num_hidden_layers=4)


def test_every_batch_finds_its_own(model: Any) -> None:
    """Whatever rows a batch takes, in whatever order, the references are those rows' own."""
    rows = prepare(model.train(), ALL, SETS, SETTINGS)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    model.eval()
    met = SETS.retain_rows_met(SETTINGS)
    for forget, retain in (([0, 1, 2], met[:3]), ([3, 1], [met[-1], met[0]]), ([2], [met[4]])):
        batch = rows.batch(list(zip(forget, retain, strict=True)))
        reference = batch["reference"]
        forgets = [alone(model, FORGET[i]) for i in forget]
        retains = [alone(model, RETAIN[j]) for j in retain]
        others = [alone(model, ALTERNATES[i]) for i in forget]
        near = {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(
            reference["forget_logits"], np.concatenate([z for z, _, _ in forgets]), **near
        )
        np.testing.assert_allclose(
            reference["retain_logits"], np.concatenate([z for z, _, _ in retains]), **near
        )
        np.testing.assert_allclose(
            reference["retain_hidden"], np.concatenate([h for _, _, h in retains]), **near
        )
        np.testing.assert_allclose(
            reference["forget_nll"], [nll.sum() for _, nll, _ in forgets], **near
        )
        np.testing.assert_allclose(
            reference["alternate_nll"], [nll.sum() for _, nll, _ in others], **near
        )
        assert batch["alternate"]["input_ids"].tolist() == [
            list(ALTERNATES[i].input_ids) for i in forget
        ]
    rows.close()


def open_files(directory: Path) -> list[os.stat_result]:
    """Files below a directory that this process holds open, whether they have a name or not."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(link.readlink()).startswith(str(directory)):
                found.append(link.stat())
    return found


def test_files_have_no_name_and_go_away(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nameless files take the announced bytes, and are gone after close and after an error."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = prepare(model, ALL, SETS, SETTINGS)
    assert not list(tmp_path.iterdir())
    held = open_files(tmp_path)
    assert len(held) == 3
    assert all(stat.S_IMODE(file.st_mode) == 0o600 and file.st_nlink == 0 for file in held)
    assert sum(file.st_size for file in held) == reference_bytes(model.config, ALL, SETS, SETTINGS)
    rows.close()
    rows.close()
    assert not open_files(tmp_path)
    with pytest.raises(IndexError):
        strange = TrainingSets([TokenizedRow((999, 2), (999, 2))], RETAIN, 0, ALTERNATES[:1])
        prepare(model, ALL, strange, SETTINGS)
    assert not open_files(tmp_path)
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[1:]
from test_reference import ALL, SETS, SETTINGS, make_model, prepare
rows = prepare(make_model(num_hidden_layers=4), ALL, SETS, SETTINGS)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL with the references on disk: there is no file that anybody would have to clean up."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", KILLED, here, here.parent],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_without_need(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NLLs are kept in memory; rows that are not needed are not in the batch."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = prepare(model, {"forget_nll"}, SETS, SETTINGS)
    assert not list(tmp_path.iterdir())
    batch = rows.batch([(0, None)])
    assert set(batch) == {"forget", "reference"}
    assert set(batch["reference"]) == {"forget_nll"}
    bare = prepare(model, set(), TrainingSets(FORGET), SETTINGS)
    assert set(bare.batch([(0, None)])) == {"forget"}


def test_only_retain_rows_that_are_met_are_measured(model: Any) -> None:
    """Two epochs over four forget rows meet eight of eleven retain rows; only those take disk."""
    from mpu_cli.data.batches import epoch_pairs

    met = SETS.retain_rows_met(SETTINGS)
    assert met == sorted({j for epoch in range(2) for _, j in epoch_pairs(1, epoch, 4, 11)})
    assert len(met) == 8
    assert TrainingSets(FORGET, RETAIN[:8]).retain_rows_met(SETTINGS) == list(range(8))
    assert TrainingSets(FORGET).retain_rows_met(SETTINGS) == []
    rows = prepare(model, {"retain", "retain_logits"}, TrainingSets(FORGET, RETAIN), SETTINGS)
    tokens = sum(label != IGNORED for j in met for label in RETAIN[j].labels[1:])
    assert reference_bytes(model.config, {"retain_logits"}, SETS, SETTINGS) == 4 * 320 * tokens
    unmet = next(j for j in range(11) if j not in met)
    with pytest.raises(KeyError):
        rows.batch([(0, unmet)])
    rows.close()


def test_no_room(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is too small is refused before the first forward pass, with a remedy."""
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(
        token_file.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})()
    )
    with pytest.raises(OutputError, match=r"take 0\.0 GB of disk, 0\.0 GB are free") as caught:
        prepare(model, {"forget_logits"}, TrainingSets(FORGET), SETTINGS)
    assert "TMPDIR" in str(caught.value.hint)
    assert not calls


def test_missing_rows_are_a_programming_error(model: Any) -> None:
    """Rows that the loss needs must be there: one alternate to each forget row, a retain set."""
    with pytest.raises(ValueError, match="retain rows"):
        prepare(model, {"retain"}, TrainingSets(FORGET, []), SETTINGS)
    with pytest.raises(ValueError, match="alternate"):
        prepare(model, {"alternate"}, TrainingSets(FORGET, alternates=ALTERNATES[:3]), SETTINGS)


def test_layers(model: Any) -> None:
    """−1 is 7/16 of the depth; a layer that does not exist is refused early."""
    assert [resolve_layer(-1, depth) for depth in (2, 4, 16, 30, 32)] == [0, 1, 7, 13, 14]
    for layer in (4, 5, -3):
        with pytest.raises(UsageError, match=f"--set layer={layer}: the model has 4 layers"):
            prepare(model, {f"hidden:{layer}"}, TrainingSets(FORGET, RETAIN), SETTINGS)
    assert resolve_layer(-1, 1) == 0
    with pytest.raises(UsageError, match="has 1 layer"):
        resolve_layer(1, 1)


def test_what_lies_above_the_layer_is_frozen(model: Any) -> None:
    """Only parameters that have a part in the layer's hidden states go on asking for a gradient."""
    frozen = model.get_input_embeddings().weight.requires_grad_(False)
    freeze_above(model, 1)
    asking = {
        name.split(".")[2] for name, weight in model.named_parameters() if weight.requires_grad
    }
    assert asking == {"0", "1"}
    assert sum(weight.requires_grad for weight in model.model.layers[:2].parameters()) == len(
        list(model.model.layers[:2].parameters())
    )
    assert not frozen.requires_grad
    assert all(weight.grad is None for weight in model.parameters())
