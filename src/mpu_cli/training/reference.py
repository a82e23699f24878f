"""What the model says of the rows before its first step, measured once and looked up by row.

No second model stays in memory. NLLs are numbers in memory, one a row. Logits over the whole
vocabulary (UnDIAL, the KL retain loss) and hidden states (RMU, LUNAR) lie in a nameless file on
disk (`token_file.py`), 4 bytes times V or D for each labelled token: 400 answers of 40 tokens take
3.1 GB with a vocabulary of 49,152. Only retain rows that the run meets are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, closing, nullcontext
from typing import Any

import torch
from torch import Tensor

from mpu_cli.data.batches import PairedRows, ReferenceValues
from mpu_cli.data.templates import IGNORED, TokenizedRow
from mpu_cli.modeling.hidden import (
    labelled_hidden,
    last_prompt_hidden,
    layers_of,
    prompt_hidden,
    resolve_layer,
)
from mpu_cli.modeling.logprobs import answer_nll, in_evaluation, labelled_predictions
from mpu_cli.training.loss_inputs import hidden_layer
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.token_file import TokenFile, refuse_without_room
from mpu_cli.training.training_sets import TrainingSets

Vectors = Callable[[Any, dict[str, Tensor]], Tensor]
"""(model, rows) → one vector for each labelled token, (N, width), row after row."""
Count = Callable[[TokenizedRow], int]
"""The number of vectors of a row."""


def prepare(
    model: Any, inputs: AbstractSet[str], sets: TrainingSets, settings: TrainingSettings
) -> PairedRows:
    """Attach everything that the loss reads to the rows.

    Args:
        model: as it is before its first step, on its device; mode and weights stay as they are.
        inputs: words of `training.loss_inputs.LOSS_INPUTS`.
        sets: the rows; sets that no input names are not read.
        settings: batch size and precision are those of training; seed and epochs decide which
            retain rows are met.

    Returns:
        The rows; call `close` on them when training is over.

    Raises:
        ValueError: see `TrainingSets.check`.
        UsageError: the model has no such layer.
        OutputError: the disk has no room for the logits.
    """
    sets.check(inputs)
    layer = hidden_layer(inputs)
    if layer is not None:
        resolve_layer(layer, layers_of(model))
    refuse_without_room(reference_bytes(model.config, inputs, sets, settings))
    met = {"forget": range(len(sets.forget)), "retain": sets.retain_rows_met(settings)}
    rows = {
        "forget": sets.forget,
        "retain": sets.retain or (),
        "alternate": sets.alternates or (),
        "unanswerable": sets.unanswerable or (),
    }
    references: dict[str, ReferenceValues] = {}
    device = next(model.parameters()).device.type
    with (
        ExitStack() as files,
        torch.autocast(device, torch.bfloat16) if settings.autocasts else nullcontext(),
    ):

        def stored(of: str, vectors: Vectors, count: Count) -> ReferenceValues:
            """The vectors of one set's rows, in a file."""
            file = files.enter_context(closing(TokenFile()))

            def add(places: Sequence[int], batch: dict[str, Tensor]) -> None:
                file.add(places, [count(rows[of][i]) for i in places], vectors(model, batch))

            in_evaluation(model, rows[of], met[of], settings.batch_size, sets.pad_id, add)
            return file.read

        for of in ("forget", "alternate"):
            if f"{of}_nll" in inputs:
                measured = answer_nll(model, rows[of], settings.batch_size, sets.pad_id)
                references[f"{of}_nll"] = _numbers([nll for nll, _ in measured])
        for word, (of, vectors, count) in _stored(layer).items():
            if word in inputs:
                references[word] = stored(of, vectors, count)
        if "direction" in inputs and layer is not None:
            references["direction"] = _direction(model, layer, sets, settings)
        close = files.pop_all().close  # from here on the rows own the files
    return PairedRows(
        sets.forget,
        sets.retain if "retain" in inputs else None,
        sets.pad_id,
        sets.alternates if "alternate" in inputs else None,
        references,
        close,
    )


def reference_bytes(
    config: Any, inputs: AbstractSet[str], sets: TrainingSets, settings: TrainingSettings
) -> int:
    """Bytes of disk that the references take while training runs; `config` is the model's own."""
    sizes = config.get_text_config()
    retain = [(sets.retain or ())[i] for i in sets.retain_rows_met(settings)]
    rows = {"forget": sets.forget, "retain": retain}
    numbers = sum(
        (sizes.vocab_size if vectors is _logits else sizes.hidden_size) * sum(map(count, rows[of]))
        for word, (of, vectors, count) in _stored(-1).items()
        if word in inputs
    )
    return 4 * int(numbers)


def _stored(layer: int | None) -> dict[str, tuple[str, Vectors, Count]]:
    """By the input's word: whose rows are measured, the vectors, and how many a row has."""
    stored: dict[str, tuple[str, Vectors, Count]] = {
        f"{of}_logits": (of, _logits, _predicted) for of in ("forget", "retain")
    }
    if layer is not None:
        stored["retain_hidden"] = ("retain", _hidden(layer), _labelled)
        for of in ("forget", "retain"):
            stored[f"{of}_prompt_hidden"] = (of, _prompt(layer), _asked)
    return stored


def _logits(model: Any, rows: dict[str, Tensor]) -> Tensor:
    return labelled_predictions(model, rows)[0]


def _hidden(layer: int) -> Vectors:
    return lambda model, rows: labelled_hidden(model, rows, layer)


def _prompt(layer: int) -> Vectors:
    return lambda model, rows: prompt_hidden(model, rows, layer)


def _direction(
    model: Any, layer: int, sets: TrainingSets, settings: TrainingSettings
) -> ReferenceValues:
    """The same vector (D,) for all rows; means are taken in float64."""
    means: list[Tensor] = []
    for rows in (sets.unanswerable or (), sets.forget):
        sums: list[Tensor] = []

        def add(places: Sequence[int], batch: dict[str, Tensor], sums: list[Tensor] = sums) -> None:
            last = last_prompt_hidden(model, batch, layer)
            sums.append(last.to("cpu", torch.float64).sum(dim=0))

        in_evaluation(model, rows, range(len(rows)), settings.batch_size, sets.pad_id, add)
        means.append(torch.stack(sums).sum(dim=0) / len(rows))
    direction = (means[0] - means[1]).float()
    return lambda rows: direction


def _numbers(values: list[float]) -> ReferenceValues:
    return lambda rows: torch.tensor([values[i] for i in rows])


def _predicted(row: TokenizedRow) -> int:
    return _count(row.labels[1:])


def _labelled(row: TokenizedRow) -> int:
    return _count(row.labels)


def _asked(row: TokenizedRow) -> int:
    return row.prompt_length


def _count(labels: Sequence[int]) -> int:
    return sum(label != IGNORED for label in labels)
