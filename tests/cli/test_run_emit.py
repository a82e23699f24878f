"""`mpu run --emit`: the rules are written beside the plan; presets are read whole."""

from __future__ import annotations

import json

import pytest
import yaml

from mpu_cli.demo.demonstration import assets

MODEL = assets() / "model"


@pytest.fixture
def plan(tmp_path):
    """A small plan on the demo's assets."""
    content = {
        "model": str(MODEL),
        "base": str(assets() / "base"),
        "data": {role: str(assets() / f"{role}.jsonl") for role in ("forget", "retain")},
        "unlearn": {"max_steps": 1},
        "grid": {"method": "GradDiff", "kappa": 0.1, "copies": 2},
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_preset_is_forecast(mpu, tmp_path):
    """All steps of the authors' run, from a directory with the benchmark's names."""
    names = ("forget01", "retain99", "holdout01", "forget01_perturbed", "retain_perturbed")
    for number, name in enumerate((*names, "real_authors", "world_facts")):
        row = {"question": f"Who is {number}?", "answer": "Nobody."}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    words = ("--preset", "paper-tofu", "--model", MODEL, "--base", assets() / "base")
    done = mpu("run", *words, "--data", tmp_path, "--work", tmp_path / "work", "--dry-run")
    assert done.code == 0, done.err


@pytest.mark.parametrize(("engine", "name"), [("make", "Makefile"), ("snakemake", "Snakefile")])
def test_rules_are_written_beside_the_plan(mpu, plan, tmp_path, engine, name):
    """And the command that writes the tables is in them; nothing is run."""
    out, work = tmp_path / "out", tmp_path / "work"
    done = mpu("run", plan, "--out", out, "--work", work, "--emit", engine, "--json")
    assert done.code == 0, done.err
    assert done.json["steps"] == 8
    text = (out / name).read_text(encoding="utf-8")
    assert text.count("mpu_cli.experiment.child") == 8
    assert f"mpu_cli run {plan} --out {out} --work {work}" in text
    assert {path.name for path in out.iterdir()} == {"plan.yaml", name}
    assert not work.exists()
