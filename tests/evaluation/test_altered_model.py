"""A record's digest is that of the weights that were measured, or there is no record."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_rows import questions, rows, settings

from mpu_cli.errors import BadModelError
from mpu_cli.evaluation import evaluate as module
from mpu_cli.evaluation.questions import FORGET


@pytest.mark.parametrize("which", ["the model", "the reference"])
def test_a_model_altered_while_it_is_measured_gives_no_record(
    tiny_pair, tmp_path, monkeypatch, which
):
    """The digest is computed after the weights were loaded; one bit changes in between."""
    model, reference = (
        Path(shutil.copytree(source, tmp_path / name))
        for name, source in (("model", tiny_pair("llama").model), ("ref", tiny_pair("llama").base))
    )
    altered = model if which == "the model" else reference
    original = module._run_checks

    def run_checks(*given):
        with (altered / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            byte = file.read(1)[0]
            file.seek(-1, 2)
            file.write(bytes([byte ^ 1]))
        return original(*given)

    monkeypatch.setattr(module, "_run_checks", run_checks)
    sets = [questions(tmp_path, "forget", FORGET, rows(4, 0))]
    with pytest.raises(BadModelError, match=r"model\.safetensors: was altered while"):
        module.evaluate(model, sets, settings(generate=False), reference=reference)
