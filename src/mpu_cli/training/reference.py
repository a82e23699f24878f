"""What the model says of the rows before its first step: computed once, looked up by row, no second model in memory.

NLLs are numbers in memory, one a row. Logits over the whole vocabulary (UnDIAL, the KL retain loss) and hidden states
(RMU) lie in a private file on disk, 4 bytes times V or D a labelled token: 400 answers of 40 tokens take 3.1 GB with a
vocabulary of 49,152. Of the retain rows only those are measured that the run will meet. `reference_bytes` says how
much it will be; memory stays that of one batch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpu_cli.data.batches import PairedRows, ReferenceValues, collate, epoch_pairs
from mpu_cli.data.templates import IGNORED, Encoded
from mpu_cli.training.hidden import labelled_hidden, layers_of, resolve_layer
from mpu_cli.training.logprobs import answer_nll, labelled_predictions
from mpu_cli.training.needs import hidden_layer
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.token_file import TokenFile, refuse_without_room


def prepare(
    model: Any,
    needs: AbstractSet[str],
    forget: Sequence[Encoded],
    retain: Sequence[Encoded] | None,
    alternates: Sequence[Encoded] | None,
    settings: TrainingSettings,
    pad_id: int,
    device: str,
) -> PairedRows:
    """The rows with everything that the loss needs beside them; call `close` on them when training is over.

    Args:
        model: as it is before its first step, on `device`; its mode and weights are left as they are.
        needs: words of `training.needs.NEEDS`.
        forget: the rows to forget.
        retain: the rows to keep, not looked at unless needed.
        alternates: another answer to each forget row, in their order; not looked at unless needed.
        settings: batch size and precision are those of training; seed and epochs say which retain rows are met.
        pad_id: what short rows are filled with.
        device: where the model is.

    Raises:
        ValueError: rows that are needed are missing (a caller checks that before it loads anything).
        UsageError: there is no such layer.
        OutputError: the disk has no room for the logits.
    """
    _check_rows(needs, forget, retain, alternates)
    layer = hidden_layer(needs)
    if layer is not None:
        resolve_layer(layer, layers_of(model))
    of_forget, of_retain = range(len(forget)), met_retain_rows(settings, len(forget), len(retain or ()))
    half = settings.precision == "bfloat16"
    references: dict[str, ReferenceValues] = {}
    scratch = _Scratch(reference_bytes(model.config, needs, forget, retain, settings))

    def fill(name: str, rows: Sequence[Encoded] | None, met: Sequence[int], vectors: Vectors) -> ReferenceValues:
        return _fill(scratch.path / name, model, vectors, rows or (), met, settings.batch_size, pad_id, device)

    try:
        with torch.autocast(device, dtype=torch.bfloat16) if half else nullcontext():
            for name, rows in (("forget_nll", forget), ("alternate_nll", alternates)):
                if name in needs:
                    measured = answer_nll(model, rows or (), settings.batch_size, pad_id)
                    references[name] = _numbers([nll for nll, _ in measured])
            if "forget_logits" in needs:
                references["forget_logits"] = fill("forget_logits", forget, of_forget, _logits)
            if "retain_logits" in needs:
                references["retain_logits"] = fill("retain_logits", retain, of_retain, _logits)
            if "retain_hidden" in needs and layer is not None:
                references["retain_hidden"] = fill("retain_hidden", retain, of_retain, _hidden(layer))
    except BaseException:
        scratch.close()
        raise
    kept = retain if "retain" in needs else None
    return PairedRows(forget, kept, pad_id, alternates if "alternate" in needs else None, references, scratch.close)


def reference_bytes(
    config: Any,
    needs: AbstractSet[str],
    forget: Sequence[Encoded],
    retain: Sequence[Encoded] | None,
    settings: TrainingSettings,
) -> int:
    """Bytes of disk that the references take while training runs; `config` is the model's own."""
    sizes = config.get_text_config()
    met = met_retain_rows(settings, len(forget), len(retain or ()))
    kept = [(retain or ())[i] for i in met]
    total = 0
    if "forget_logits" in needs:
        total += sizes.vocab_size * sum(_predicted(row) for row in forget)
    if "retain_logits" in needs:
        total += sizes.vocab_size * sum(_predicted(row) for row in kept)
    if "retain_hidden" in needs:
        total += sizes.hidden_size * sum(_labelled(row) for row in kept)
    return 4 * total


def met_retain_rows(settings: TrainingSettings, n_forget: int, n_retain: int) -> list[int]:
    """The indices of the retain rows that the run's epochs meet, sorted."""
    if not n_retain or settings.epochs * n_forget >= n_retain:
        return list(range(n_retain))
    pairs = (pair for epoch in range(settings.epochs) for pair in epoch_pairs(settings.seed, epoch, n_forget, n_retain))
    return sorted({j for _, j in pairs if j is not None})


Vectors = Callable[[Any, dict[str, Tensor]], Tensor]
"""(model, rows) → one vector for each labelled token, (N, width), row after row."""


def _logits(model: Any, rows: dict[str, Tensor]) -> Tensor:
    return labelled_predictions(model, rows)[0]


def _hidden(layer: int) -> Vectors:
    return lambda model, rows: labelled_hidden(model, rows, layer)


def _fill(
    path: Path,
    model: Any,
    vectors: Vectors,
    rows: Sequence[Encoded],
    met: Sequence[int],
    batch_size: int,
    pad_id: int,
    device: str,
) -> ReferenceValues:
    """Measure the rows of these indices into a file, batch by batch and sorted by length."""
    count = _labelled if path.name == "retain_hidden" else _predicted
    order = sorted(met, key=lambda i: len(rows[i].input_ids))
    file: TokenFile | None = None
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = {name: value.to(device) for name, value in collate([rows[i] for i in places], pad_id).items()}
            with torch.no_grad():
                values = vectors(model, batch)
            file = file or TokenFile(path, values.shape[1])
            file.add(places, [count(rows[i]) for i in places], values)
    finally:
        model.train(was_training)
    assert file is not None
    return file.read


def _check_rows(
    needs: AbstractSet[str],
    forget: Sequence[Encoded],
    retain: Sequence[Encoded] | None,
    alternates: Sequence[Encoded] | None,
) -> None:
    if "retain" in needs and not retain:
        raise ValueError("this loss needs retain rows")
    if "alternate" in needs and len(alternates or ()) != len(forget):
        raise ValueError("this loss needs an alternate answer to each forget row")


def _numbers(values: list[float]) -> ReferenceValues:
    return lambda rows: torch.tensor([values[i] for i in rows])


def _predicted(row: Encoded) -> int:
    return sum(label != IGNORED for label in row.labels[1:])


def _labelled(row: Encoded) -> int:
    return sum(label != IGNORED for label in row.labels)


class _Scratch:
    """A private directory that is made only if something will be written to it."""

    def __init__(self, needed: int) -> None:
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        if needed:
            refuse_without_room(Path(tempfile.gettempdir()), needed)
            self._directory = tempfile.TemporaryDirectory(prefix="mpu-reference-")

    @property
    def path(self) -> Path:
        assert self._directory is not None
        return Path(self._directory.name)

    def close(self) -> None:
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None
