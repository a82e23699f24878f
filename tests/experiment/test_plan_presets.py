"""The paper's runs as presets: the authors' settings, for the benchmark's files under their names.

The tests with real rows need MPU_TEST_DATA (see tests/data/test_shared_data.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from plans import COMMANDS, small

from mpu_cli.client.preset import ROUNDS_AND_EPOCHS
from mpu_cli.data.rows import read_rows
from mpu_cli.errors import BadDataError
from mpu_cli.experiment.graph import build
from mpu_cli.experiment.plan.read import read_plan
from mpu_cli.experiment.presets import PresetModels, preset_plan
from mpu_cli.experiment.step import Result, Source

DATA = Path(os.environ.get("MPU_TEST_DATA", "/nonexistent"))
with_rows = pytest.mark.skipif(
    not (DATA / "tofu" / "full.jsonl").exists(),
    reason="MPU_TEST_DATA names no directory with TOFU and MUSE",
)
MODELS = PresetModels(model=small()["model"], base=small()["base"], retain_model=small()["base"])
TOFU = (
    *("forget01", "retain99", "holdout01", "forget01_perturbed", "retain_perturbed"),
    *("real_authors_perturbed", "world_facts_perturbed"),
)
MUSE = {
    "raw": ("forget", "retain1"),
    "privleak": ("forget", "retain", "holdout"),
    "verbmem": ("forget",),
    "knowmem": ("forget_qa", "retain_qa", "forget_qa_icl", "retain_qa_icl"),
}
ROW = {"question": "Who?", "answer": "Nobody."}


def tofu(directory: Path, *, without: str = "", refusals: bool = True) -> Path:
    """A directory with TOFU's file names."""
    for number, name in enumerate(TOFU):
        if name != without:
            row = {"question": f"Who is {number}?", "answer": "Nobody."}
            (directory / f"{name}.json").write_text(json.dumps(row))
    if refusals:
        (directory / "idontknow.txt").write_text("I do not know.\n")
    return directory


def muse(directory: Path) -> Path:
    """A directory with MUSE's file names."""
    for folder, names in MUSE.items():
        (directory / folder).mkdir()
        for name in names:
            text = folder in {"raw", "privleak"}
            row = {"text": f"{folder} {name} text."} if text else {**ROW, "question": name}
            row = {"prompt": name, "gt": "More."} if folder == "verbmem" else row
            (directory / folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    return directory


def trained(experiment, method: str) -> list:
    """The steps of plain unlearning by a method, round by round."""
    name = f"{method} seed=0 noise-free / round"
    return [
        step
        for step in experiment.graph.steps.values()
        if step.name.startswith(name) and step.kind == "unlearn"
    ]


@pytest.mark.parametrize("name", ["paper-tofu", "paper-muse"])
def test_a_preset_is_the_authors_run(tmp_path, name):
    """Their rounds, and --preset paper in both parties' commands."""
    data = tofu(tmp_path) if name == "paper-tofu" else muse(tmp_path)
    experiment = build(preset_plan(name, MODELS, str(data), COMMANDS), COMMANDS)
    methods = ROUNDS_AND_EPOCHS if name == "paper-tofu" else ROUNDS_AND_EPOCHS.keys() - {"DPO"}
    runs = {run.method: run for run in experiment.runs if run.kind == "mpu"}
    assert runs.keys() == set(methods)
    for method, run in runs.items():
        assert len(run.rounds) == ROUNDS_AND_EPOCHS[method][0] == len(trained(experiment, method))
        assert run.settings["kappa"] == 0.01
        assert run.settings["copies"] == 2
        assert run.settings["reparam"] == "paper-rotation"
        assert run.settings["optimizer"] == "adamw"
    for step in experiment.graph.steps.values():
        if step.kind in {"perturb", "unlearn"}:
            assert step.words[step.words.index("--preset") + 1] == "paper"


def test_the_reference_is_the_model_before_round_1(tmp_path):
    """In every round, for the methods that have one, as in the authors' code."""
    plan = preset_plan("paper-tofu", MODELS, str(tofu(tmp_path)), COMMANDS)
    experiment = build(plan, COMMANDS)
    for step in experiment.graph.steps.values():
        if step.kind != "unlearn":
            continue
        method = step.words[step.words.index("--method") + 1]
        assert ("--reference" in step.words) == (method in {"NPO", "DPO", "UnDIAL"})
        if "--reference" in step.words:
            reference = step.words[step.words.index("--reference") + 1]
            assert isinstance(reference, Source) and reference.path == MODELS.model


def test_a_chat_model_is_asked_as_it_was_trained(tmp_path):
    """The authors' system prompt and date, where the tokenizer has a chat template."""
    model, rows = tmp_path / "model", tmp_path / "rows"
    rows.mkdir()
    shutil.copytree(MODELS.model, model)
    for has_template in (False, True):
        if has_template:
            (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
        models = replace(MODELS, model=str(model))
        plan = preset_plan("paper-tofu", models, str(tofu(rows)), COMMANDS)
        words = build(plan, COMMANDS).graph.steps["before"].words
        assert ("--system-prompt" in words) == ("--template-date" in words) == has_template


def test_muse_measures_on_its_own_sets(tmp_path):
    """Training on the raw texts, PrivLeak, KnowMem and VerbMem on their own files."""
    plan = preset_plan("paper-muse", MODELS, str(muse(tmp_path)), COMMANDS)
    step = build(plan, COMMANDS).graph.steps["before"]
    files = [
        f"{before} {word.prefix}{Path(word.path).relative_to(tmp_path)}"
        for before, word in zip(step.words, step.words[1:], strict=False)
        if isinstance(word, Source) and before != "eval"
    ]
    assert files == [
        "--forget privleak/forget.jsonl",
        "--retain privleak/retain.jsonl",
        "--holdout privleak/holdout.jsonl",
        "--knowledge knowledge=knowmem/forget_qa.jsonl",
        "--knowledge retain_knowledge=knowmem/retain_qa.jsonl",
        "--few-shot knowledge=knowmem/forget_qa_icl.jsonl",
        "--few-shot retain_knowledge=knowmem/retain_qa_icl.jsonl",
        "--verbatim verbmem/forget.jsonl",
    ]
    assert any(isinstance(word, Result) and word.path == "record" for word in step.words)


def test_missing_files_are_named(tmp_path):
    """Rows are needed; refusals are not, but then DPO is left out."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(BadDataError, match=r"no retain99\.json"):
        preset_plan("paper-tofu", MODELS, str(tofu(tmp_path / "a", without="retain99")), COMMANDS)
    plan = preset_plan("paper-tofu", MODELS, str(tofu(tmp_path / "b", refusals=False)), COMMANDS)
    assert "DPO" not in {run.method for run in build(plan, COMMANDS).runs}


def test_the_text_of_a_preset_is_the_same_plan(tmp_path):
    """What the results keep as plan.yaml has the user's models and rows, and the same steps."""
    rows = tmp_path / "rows"
    rows.mkdir()
    preset = preset_plan("paper-tofu", MODELS, str(tofu(rows, refusals=False)), COMMANDS)
    (tmp_path / "plan.yaml").write_bytes(preset.text)
    again = build(read_plan(tmp_path / "plan.yaml", COMMANDS), COMMANDS)
    assert again.graph.keys({}) == build(preset, COMMANDS).graph.keys({})
    assert again.warnings == ()


def test_names_on_the_hub():
    """No file is asked for before the plan is built."""
    plan = preset_plan("paper-tofu", MODELS, "hf://datasets/locuslab/TOFU", COMMANDS)
    assert plan.splits["forget01"].train == {
        "forget": "hf://datasets/locuslab/TOFU/forget01.json",
        "retain": "hf://datasets/locuslab/TOFU/retain99.json",
    }
    plan = preset_plan("paper-muse", MODELS, "hf://datasets/muse-bench/MUSE-News", COMMANDS)
    expected = "hf://datasets/muse-bench/MUSE-News/raw/forget-00000-of-00001.parquet"
    assert plan.splits["muse"].train["forget"] == expected


@pytest.mark.slow
def test_a_preset_from_models_to_tables(tmp_path):
    """All eight methods in the authors' rounds on the demo's model; then the plan that was kept."""
    rows, work = tmp_path / "rows", tmp_path / "work"
    rows.mkdir()
    mpu = (sys.executable, "-m", "mpu_cli", "run")
    words = ("--preset", "paper-tofu", "--model", MODELS.model, "--base", MODELS.base)
    words += ("--retain-model", MODELS.retain_model, "--data", tofu(rows), "--out", "first")
    subprocess.run([*mpu, *words, "--work", work, "--jobs", "2", "-q"], cwd=tmp_path, check=True)
    words = ("first/plan.yaml", "--out", "second", "--work", work, "--json")
    again = subprocess.run([*mpu, *words], cwd=tmp_path, check=True, capture_output=True)
    done = json.loads(again.stdout)
    assert (done["made"], done["failed"]) == (0, [])
    assert done["rows"] == done["runs"] == 2 + 2 * len(ROUNDS_AND_EPOCHS)
    assert (tmp_path / "first/runs.csv").read_bytes() == (tmp_path / "second/runs.csv").read_bytes()


@with_rows
def test_real_rows_of_tofu(tmp_path):
    """The split forget10 from the distributed files: 400 rows to forget, 3,600 to keep."""
    source, data = DATA / "tofu", tmp_path / "tofu"
    data.mkdir()
    lines = (source / "full.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (data / "forget10.jsonl").write_text("".join(lines[3600:]), encoding="utf-8")
    (data / "retain90.jsonl").write_text("".join(lines[:3600]), encoding="utf-8")
    names = ("forget10_perturbed", "retain_perturbed", "holdout10", "real_authors", "world_facts")
    for name in (*(f"{name}.jsonl" for name in names), "idontknow.txt"):
        (data / name).symlink_to(source / name)
    experiment = build(preset_plan("paper-tofu", MODELS, str(data), COMMANDS), COMMANDS)
    files = {
        word.path
        for step in experiment.graph.steps.values()
        for word in step.words
        if isinstance(word, Source) and word.path.startswith(str(data)) and "idont" not in word.path
    }
    counted = {Path(file).name: len(read_rows(file)) for file in files}
    assert counted["forget10.jsonl"] == 400
    assert counted["retain90.jsonl"] == 3600
    assert len(counted) == 7
