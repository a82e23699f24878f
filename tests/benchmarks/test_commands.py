"""Every benchmark of issue 9 runs, prints its ratios and leaves nothing behind.

memory's bar on a real shape.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from measuring import Cost
from memory import COMMANDS, growth, per_copy
from synthetic import Size, write_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name, *options, work):
    """One benchmark's JSON."""
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--json", "--work", work, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not any(work.iterdir())
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("name", "parameters", "layer"),
    [("135m", 134.5e6, 14), ("360m", 361.8e6, 37), ("1.2b", 1235.8e6, 232)],
)
def test_shapes_are_those_of_the_real_models(name, parameters, layer):
    """Parameters as the model cards say, with the tied head once."""
    assert Size(name).parameters == pytest.approx(parameters, rel=1e-3)
    assert Size(name).layer_bytes / 2**20 == pytest.approx(layer, abs=1)


def test_synthetic_models_differ_by_the_task_vector(tmp_path):
    """Transformers loads them; the base differs in the decoder layers, by 15 % of the weights."""
    from transformers import AutoModelForCausalLM

    theta, base = (write_model(tmp_path / str(task), Size("tiny"), task) for task in (0.15, 0.0))
    theta, base = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (theta, base)
    )
    assert (theta["model.embed_tokens.weight"] == base["model.embed_tokens.weight"]).all()
    name = "model.layers.0.mlp.up_proj.weight"
    assert float((theta[name] - base[name]).std() / base[name].std()) == pytest.approx(
        0.15, rel=0.05
    )


@pytest.mark.slow
def test_memory(tmp_path):
    """All commands, several sizes: peaks, seconds, growth."""
    found = run("memory", "--size", "tiny", "--copies", "2", work=tmp_path)
    assert found["machine"]["cores"] and set(found["sizes"]["tiny"]["2"]) == {
        "perturb",
        "verify handoff",
        "diff",
        "verify update",
        "aggregate",
        "verify model",
    }


@pytest.mark.slow
def test_throughput(tmp_path):
    """Ratios for both commands and both ways of hashing, and the stream."""
    found = run("throughput", "--size", "tiny", "--repeats", "1", work=tmp_path)
    assert set(found["ratios"]) == {"perturb", "aggregate"} and set(found["ratios"]["perturb"]) == {
        "sha256sum",
        "hashlib",
    }
    assert found["stream"]["normals"] == 2 * sum(Size("tiny").noised.values())


@pytest.mark.slow
def test_cpu(tmp_path):
    """A ratio by number of threads."""
    found = run("cpu", "--size", "tiny", "--repeats", "1", "--threads", "1", work=tmp_path)
    assert found["ratios"]["1"] > 0 and found["bar"] == 0.125


@pytest.mark.slow
def test_check_memory(tmp_path):
    """Layers that the check adds."""
    assert run("check_memory", "--size", "tiny", work=tmp_path)["sizes"]["tiny"]["layer_mib"] > 0


def test_lines_are_fitted_over_sizes_and_copies():
    """Peaks and seconds that lie on a line come out as that line."""

    def cost(name, copies):
        size = Size(name)
        return Cost(
            2 * size.nbytes / 1e9,
            size.nbytes / 1e9,
            0.0,
            10 + copies + size.parameters / 1e8,
            100.0,
            9,
            {},
        )

    found = {
        name: {copies: dict.fromkeys(COMMANDS, cost(name, copies)) for copies in (2, 3, 5)}
        for name in ("1.2b", "135m", "360m")
    }
    row = growth(found, 3)["perturb"]
    assert row["mib_at_70b_by_parameters"] == pytest.approx(713) and row[
        "wall_per_gb"
    ] == pytest.approx(2)
    assert row["cpu_per_gb"] == pytest.approx(1) and row["hours_at_70b"] == pytest.approx(
        560 / 3600
    )
    assert row["growth"] == pytest.approx((13 + 12.358) / (13 + 1.345) - 1, rel=1e-3)
    assert per_copy(found["360m"])["diff"] == pytest.approx(1)
