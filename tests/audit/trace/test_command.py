"""`mpu audit trace` as a command: what it prints, its gates, and one line for each mistake."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch
from leaks import leak, tensors_of
from two_parties import publish

from mpu_cli.cli.app import run


@pytest.fixture
def trace(town, capsys):
    """Run `mpu audit trace`: exit code, stdout, lines of stderr that begin with "mpu: "."""

    def call(leaked, *options, secret=None):
        capsys.readouterr()
        words = ["audit", "trace", leaked, "--secret", secret or town.secret, *options]
        before = signal.getsignal(signal.SIGTERM)
        try:
            code = run([str(word) for word in words])
        finally:
            signal.signal(signal.SIGTERM, before)
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if line.startswith("mpu: ")]
        return code, captured.out, lines

    return call


def test_it_prints_the_copy_and_the_numbers(town, trace):
    """The sentence has handoff, client, round, date, z and share; JSON has the same numbers."""
    record = town.handoffs["2 single"][1]
    code, out, lines = trace(town.copy("2 single"))
    assert code == 0
    first, second = out.splitlines()[:2]
    assert first == f"{town.copy('2 single')} came from:"
    begin = (
        f"  copy-1 of handoff {record.id} (client client of single, round 2, {record.date[:10]})"
    )
    assert second.startswith(f"{begin}: z = ")
    assert second.endswith("reparameterized as it was published")
    assert lines == [
        "mpu: warning: this secret was prepared by a test (origin: test): it hides nothing"
    ]
    code, out, _ = trace(town.copy("2 single"), "--json")
    content = json.loads(out)
    assert code == 0
    assert content["verdict"] == "named"
    [named] = content["named"]
    assert (named["copy"], named["handoff"], named["round"]) == ("copy-1", record.id, 2)
    assert content["numbers"]["copies_named"] == 1
    assert content["numbers"]["largest_share"] == named["share"]
    assert content["numbers"]["largest_z"] >= named["z"] > content["numbers"]["threshold"]


def test_an_innocent_model_and_gates(town, trace):
    """None is exit 0; a condition that holds is exit 1 after everything was printed."""
    code, out, _ = trace(town.base)
    assert code == 0
    assert out.startswith(f"{town.base} came from none of the 36 copies: the largest z is ")
    code, out, lines = trace(town.copy("1 single"), "--fail-if", "copies_named>=1")
    assert code == 1
    assert "came from:" in out
    assert lines[-1] == "mpu: error: --fail-if copies_named>=1: copies_named is 1"
    code, out, _ = trace(
        town.base, "--fail-if", "decided==1", "--fail-if", "copies_named<1", "--json"
    )
    content = json.loads(out)
    assert code == content["error"]["exit_code"] == 1
    assert content["failed_gates"] == [
        "--fail-if decided==1: decided is 1",
        "--fail-if copies_named<1: copies_named is 0",
    ]
    code, _, lines = trace("nowhere", "--fail-if", "copys_named>0")
    assert code == 2
    assert lines == [
        "mpu: error: --fail-if copys_named>0: there is no number copys_named",
        "mpu: hint: did you mean copies_named?",
    ]


def test_mistakes_are_one_line(town, trace, tiny_pair, tmp_path):
    """Each names the file, and its hint the remedy."""
    other = tiny_pair("qwen3")
    tensors = tensors_of(town.model)
    renamed = tmp_path / "renamed.safetensors"
    file = leak(tensors, town.model, tmp_path / "whole") / "model.safetensors"
    broken = dict(tensors)
    name = "model.layers.0.mlp.up_proj.weight"
    broken[name] = torch.full_like(tensors[name], float("nan"))
    shutil.copy(other.model / "model.safetensors", renamed)
    missing = {key: value for key, value in tensors.items() if key != name}
    cases = [
        ((other.model,), 3, f"{other.model}: is not laid out as the models of {town.secret}"),
        (
            (other.model, "--model", town.model),
            3,
            f"{other.model}: has no tensor of the lineage's models",
        ),
        ((renamed, "--model", town.model), 3, f"{renamed}: has no tensor of the lineage's models"),
        ((file,), 3, f"{file}: one file of weights does not say how its tensors are laid out"),
        ((leak(missing, town.model, tmp_path / "missing"),), 3, f"tensor {name}"),
        (
            (leak(broken, town.model, tmp_path / "broken"),),
            3,
            f"tensor {name} holds NaN or infinity",
        ),
        ((town.model, "--model", town.base), 1, f"{town.base}: this model (digest "),
        ((town.model, "--layers", "0"), 2, "--layers 0: expected a whole number of layers"),
        ((town.model, "--false-positive-rate", "0"), 2, "--false-positive-rate 0: expected"),
        ((town.handoffs["1 plain"][0],), 3, "is a handoff, expected a model directory"),
    ]
    for words, expected, message in cases:
        code, out, lines = trace(*words)
        errors = [line for line in lines if line.startswith("mpu: error: ")]
        assert (code, out, len(errors)) == (expected, "", 1), words
        assert message in errors[0], words
        assert len([line for line in lines if line.startswith("mpu: hint: ")]) <= 1
    code, _, lines = trace(town.model, secret=town.base)
    assert code == 3
    assert "expected a server's secret directory" in lines[0]


def test_handoffs_without_noise(town, trace, tmp_path):
    """κ = 0 leaves nothing to trace: it is said, and refused where there is nothing else."""
    handoff, secret = tmp_path / "handoff", tmp_path / "server"
    publish(town.model, town.base, handoff, secret, kappa=0.0, offset=0.1)
    code, _, lines = trace(handoff / "copy-1", secret=secret)
    assert code == 3
    assert lines == [
        f"mpu: error: {secret}: holds only handoffs without noise (κ = 0), so there is no noise to"
        " trace a copy by",
        "mpu: hint: make handoffs with mpu perturb --kappa above 0; then every copy can be told",
    ]
    publish(town.model, town.base, tmp_path / "second", secret, kappa=0.001)
    code, out, lines = trace(town.model, secret=secret)
    assert code == 0
    assert out.startswith(f"{town.model}: cannot be decided\n(undecided for 3, ")
    assert "expected z is 0." in out
    assert lines == [
        "mpu: warning: 1 handoff of this lineage carries no noise (κ = 0): a copy of one cannot be"
        " traced",
        "mpu: warning: more can be decided with --model",
    ]
