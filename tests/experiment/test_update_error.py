"""How far a model is from the noise-free one: against numpy, and through the program."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mpu_cli.errors import BadModelError
from mpu_cli.experiment.update_error import update_error


@pytest.fixture
def three(tiny_pair, tmp_path):
    """θ, a plain result, and another one; and the numbers that were added."""
    model, added = tiny_pair("llama").model, {}
    for seed, name in enumerate(("plain", "result")):
        shutil.copytree(model, tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        tensors, noise = load_file(file), np.random.default_rng(seed)
        added[name] = {
            key: noise.normal(0, 0.01, value.shape).astype("float32")
            for key, value in tensors.items()
        }
        save_file({key: tensors[key] + added[name][key] for key in tensors}, file, {"format": "pt"})
    return model, tmp_path / "plain", tmp_path / "result"


def norm(*directories) -> float:
    """‖first − second‖ over all weights."""
    one, other = (load_file(path / "model.safetensors") for path in directories)
    return float(
        np.sqrt(sum(np.square(one[k].astype("f8") - other[k].astype("f8")).sum() for k in one))
    )


def test_it_is_the_relative_distance(three):
    """The same number as numpy's, and 0 for the noise-free model itself."""
    model, plain, result = three
    expected = norm(result, plain) / norm(plain, model)
    assert update_error(model, plain, result) == pytest.approx(expected, rel=1e-12)
    assert update_error(model, plain, plain) == 0
    assert update_error(model, plain, model) == pytest.approx(1)
    assert update_error(model, model, result) is None


def test_the_program_prints_one_object(three):
    """As a step runs it."""
    command = [sys.executable, "-m", "mpu_cli.experiment.update_error", *map(str, three)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"error": update_error(*three)}


def test_other_tensors_are_refused(three, tiny_pair):
    """A model of another shape is no result of this one."""
    model, plain, _ = three
    with pytest.raises(BadModelError, match="tensor"):
        update_error(model, plain, tiny_pair("llama", hidden_size=48).model)
