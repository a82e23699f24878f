"""What the model says of the rows before its first step.

Computed once, looked up by row, no second model in memory.

NLLs are numbers in memory, one a row. Logits over the whole vocabulary (UnDIAL, the KL retain loss)
and hidden states (RMU) lie in a file on disk that has no name (`token_file.py`), 4 bytes times V or
D a labelled token: 400 answers of 40 tokens take 3.1 GB with a vocabulary of 49,152. Of the retain
rows only those are measured that the run will meet. `reference_bytes` says how much it will be;
memory stays that of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, closing, nullcontext
from typing import Any

import torch
from torch import Tensor

from mpu_cli.data.batches import PairedRows, ReferenceValues, RowSampling, epoch_pairs
from mpu_cli.data.templates import IGNORED, TokenizedRow
from mpu_cli.modeling.hidden import labelled_hidden, layers_of, resolve_layer
from mpu_cli.modeling.logprobs import answer_nll, in_evaluation, labelled_predictions
from mpu_cli.training.loss_inputs import hidden_layer
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.token_file import TokenFile, refuse_without_room


def prepare(
    model: Any,
    inputs: AbstractSet[str],
    forget: Sequence[TokenizedRow],
    retain: Sequence[TokenizedRow] | None,
    alternates: Sequence[TokenizedRow] | None,
    settings: TrainingSettings,
    pad_id: int,
    device: str,
    drawing: RowSampling | None = None,
) -> PairedRows:
    """The rows with everything that the loss reads beside them.

    Call `close` on them when training is over.

    Args:
        model: as it is before its first step, on `device`; its mode and weights are left as they
            are.
        inputs: words of `training.loss_inputs.LOSS_INPUTS`.
        forget: the rows to forget.
        retain: the rows to keep, not looked at unless needed.
        alternates: another answer to each forget row, in their order; or that many for each of
            several epochs, one epoch after the other; not looked at unless needed.
        settings: batch size and precision are those of training; seed and epochs say which retain
            rows are met.
        pad_id: what short rows are filled with.
        device: where the model is.
        drawing: the order of the rows, which decides with seed and epochs.

    Raises:
        ValueError: rows that are needed are missing (a caller checks that before it loads
            anything).
        UsageError: there is no such layer.
        OutputError: the disk has no room for the logits.
    """
    _check_rows(inputs, forget, retain, alternates)
    layer = hidden_layer(inputs)
    if layer is not None:
        resolve_layer(layer, layers_of(model))
    of_forget, of_retain = (
        range(len(forget)),
        met_retain_rows(settings, len(forget), len(retain or ()), drawing),
    )
    half = settings.autocasts
    references: dict[str, ReferenceValues] = {}
    refuse_without_room(reference_bytes(model.config, inputs, forget, retain, settings, drawing))
    with (
        ExitStack() as files,
        torch.autocast(device, dtype=torch.bfloat16) if half else nullcontext(),
    ):

        def fill(
            rows: Sequence[TokenizedRow] | None, met: Sequence[int], vectors: Vectors, count: Count
        ) -> ReferenceValues:
            file, rows = files.enter_context(closing(TokenFile())), rows or ()
            in_evaluation(
                model,
                rows,
                met,
                settings.batch_size,
                pad_id,
                lambda places, batch: file.add(
                    places, [count(rows[i]) for i in places], vectors(model, batch)
                ),
            )
            return file.read

        for name, rows in (("forget_nll", forget), ("alternate_nll", alternates)):
            if name in inputs:
                measured = answer_nll(model, rows or (), settings.batch_size, pad_id)
                references[name] = _numbers([nll for nll, _ in measured])
        if "forget_logits" in inputs:
            references["forget_logits"] = fill(forget, of_forget, _logits, _predicted)
        if "retain_logits" in inputs:
            references["retain_logits"] = fill(retain, of_retain, _logits, _predicted)
        if "retain_hidden" in inputs and layer is not None:
            references["retain_hidden"] = fill(retain, of_retain, _hidden(layer), _labelled)
        # From here on the rows own the files.
        close = files.pop_all().close
    kept = retain if "retain" in inputs else None
    return PairedRows(
        forget, kept, pad_id, alternates if "alternate" in inputs else None, references, close
    )


def reference_bytes(
    config: Any,
    inputs: AbstractSet[str],
    forget: Sequence[TokenizedRow],
    retain: Sequence[TokenizedRow] | None,
    settings: TrainingSettings,
    drawing: RowSampling | None = None,
) -> int:
    """Bytes of disk that the references take while training runs; `config` is the model's own."""
    sizes = config.get_text_config()
    met = met_retain_rows(settings, len(forget), len(retain or ()), drawing)
    kept = [(retain or ())[i] for i in met]
    total = 0
    if "forget_logits" in inputs:
        total += sizes.vocab_size * sum(_predicted(row) for row in forget)
    if "retain_logits" in inputs:
        total += sizes.vocab_size * sum(_predicted(row) for row in kept)
    if "retain_hidden" in inputs:
        total += sizes.hidden_size * sum(_labelled(row) for row in kept)
    return 4 * total


def met_retain_rows(
    settings: TrainingSettings, n_forget: int, n_retain: int, drawing: RowSampling | None = None
) -> list[int]:
    """The indices of the retain rows that the run's epochs meet, sorted."""
    drawing = drawing or RowSampling()
    if not n_retain or (settings.epochs * n_forget >= n_retain and not drawing.independent):
        return list(range(n_retain))
    epochs = range(settings.epochs)
    pairs = (
        pair
        for epoch in epochs
        for pair in epoch_pairs(settings.seed, epoch, n_forget, n_retain, drawing)
    )
    return sorted({j for _, j in pairs if j is not None})


Vectors = Callable[[Any, dict[str, Tensor]], Tensor]
"""(model, rows) → one vector for each labelled token, (N, width), row after row."""
Count = Callable[[TokenizedRow], int]
"""How many vectors a row has."""


def _logits(model: Any, rows: dict[str, Tensor]) -> Tensor:
    return labelled_predictions(model, rows)[0]


def _hidden(layer: int) -> Vectors:
    return lambda model, rows: labelled_hidden(model, rows, layer)


def _check_rows(
    inputs: AbstractSet[str],
    forget: Sequence[TokenizedRow],
    retain: Sequence[TokenizedRow] | None,
    alternates: Sequence[TokenizedRow] | None,
) -> None:
    if "retain" in inputs and not retain:
        raise ValueError("this loss needs retain rows")
    if "alternate" in inputs and (not alternates or len(alternates) % len(forget)):
        raise ValueError("this loss needs an alternate answer to each forget row")


def _numbers(values: list[float]) -> ReferenceValues:
    return lambda rows: torch.tensor([values[i] for i in rows])


def _predicted(row: TokenizedRow) -> int:
    return sum(label != IGNORED for label in row.labels[1:])


def _labelled(row: TokenizedRow) -> int:
    return sum(label != IGNORED for label in row.labels)
