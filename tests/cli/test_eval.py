"""`mpu eval` and `mpu compare` in real processes, with the demo's model and rows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mpu_cli.demo

ASSETS = Path(mpu_cli.demo.__file__).parent / "assets"
QUICK = ("--device", "cpu", "--resamples", "1000", "--max-new-tokens", "4")


@pytest.fixture(scope="module")
def quickly() -> dict[str, str]:
    """For subprocesses: offline, one thread, no debugging."""
    import os

    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPU_DEBUG": ""}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """Twenty rows of each of the demo's files."""
    root = tmp_path_factory.mktemp("rows")
    for name in ("forget", "retain", "holdout"):
        (root / f"{name}.jsonl").write_text(
            "".join((ASSETS / f"{name}.jsonl").read_text().splitlines(keepends=True)[:20])
        )
    return root


def given(rows: Path) -> list[object]:
    """All three sets."""
    return [
        part
        for name in ("forget", "retain", "holdout")
        for part in (f"--{name}", rows / f"{name}.jsonl")
    ]


def start(arguments, environment, *, processes=0) -> subprocess.CompletedProcess[str]:
    """Run a command line in a separate process, or in several."""
    torchrun = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        if processes
        else []
    )
    command = [sys.executable, *torchrun, "-m", "mpu_cli", *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def records(rows, quickly, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Records of the base (with --json) and of the model, with --before the base."""
    root = tmp_path_factory.mktemp("records")
    base = start(
        ["eval", ASSETS / "base", *given(rows), *QUICK, "--record", root / "base", "--json"],
        quickly,
    )
    assert base.returncode == 0, base.stderr
    retained = [
        "--retain-record",
        root / "base",
        "--before",
        root / "base",
        "--reference",
        ASSETS / "base",
    ]
    model = start(
        ["eval", ASSETS / "model", *given(rows), *QUICK, *retained, "--record", root / "model"],
        quickly,
    )
    assert model.returncode == 0, model.stderr
    (root / "model.txt").write_text(model.stdout + model.stderr)
    return root, base


def test_json_is_the_only_output_on_stdout(records):
    """One object, the summary of the record; stderr has only progress."""
    root, base = records
    assert base.stdout.count("\n") == 1
    summary = json.loads(base.stdout)
    assert summary == json.loads((root / "base" / "summary.json").read_text())
    assert all(line.startswith("mpu: ") and " so far" in line for line in base.stderr.splitlines())
    assert set(summary["values"]) == {"forget", "retain", "model"}
    assert summary["left_out"]["model"]["forget_quality"] == "no --retain-record was given"
    one = summary["values"]["forget"]["answer_probability"]
    assert one["low"] <= one["value"] <= one["high"]


def test_the_text_has_tables_with_columns_of_other_records(records):
    """Rows, --before and --retain-record, hidden and missing numbers, the path of the record."""
    root, base = records
    text = (root / "model.txt").read_text()
    kept = f"kept  {root / 'model'}"
    for words in (
        "rows: forget 20, retain 20, holdout 20",
        "95 %",
        "before",
        "never saw",
        "more numbers are not shown; give --all to see them",
        kept,
    ):
        assert words in text
    (line,) = [line for line in text.splitlines() if line.startswith("forget answer_probability ")]
    old = json.loads(base.stdout)["values"]["forget"]["answer_probability"]["value"]
    assert line.split()[2:4] == ["↓", "lower"]
    assert line.split()[-2:] == [f"{old:.4f}"] * 2  # the base stands for both
    assert "Traceback" not in text


def test_a_retain_record_adds_metrics(records):
    """Forget quality and privacy leakage of a model that remembers are far from the base."""
    root, _ = records
    model = json.loads((root / "model" / "summary.json").read_text())["values"]["model"]
    assert model["forget_quality"]["value"] < 1e-3
    assert model["privacy_leakage"]["value"] < -50
    assert model["membership_reference"]["value"] > 0.9


def test_a_record_holds_no_text_of_the_rows(records, rows, tmp_path, quickly):
    """No answer, name or generated text, unless --texts asks for generated text."""
    root, _ = records
    kept = b"".join(path.read_bytes() for path in (root / "model").iterdir())
    assert len(kept) > 10_000
    values = [
        json.loads(line)
        for name in ("forget", "retain", "holdout")
        for line in (rows / f"{name}.jsonl").read_text().splitlines()
    ]
    words = {
        word.strip(".?")
        for row in values
        for word in f"{row['question']} {row['answer']}".split()
        if word[0].isupper()
    }
    assert len(words) > 50
    assert [word for word in words if len(word) > 4 and word.encode() in kept] == []
    assert str(rows).encode() not in kept
    done = start(
        [
            "eval",
            ASSETS / "model",
            "--forget",
            rows / "forget.jsonl",
            *QUICK,
            "--texts",
            "--record",
            tmp_path / "texts",
        ],
        quickly,
    )
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "texts" / "items.jsonl").read_text().split("\n")[0])
    assert first["written"].split()[0] in words  # the model remembers the name


def test_compare_says_what_differs(records, mpu):
    """The base against itself and the model: record names and verdicts, also with --json."""
    root, _ = records
    shutil.copytree(root / "base", root / "again", dirs_exist_ok=True)
    arguments = [
        "compare",
        root / "base",
        root / "again",
        root / "model",
        "--before",
        root / "model",
    ]
    done = mpu(*arguments, "--json")
    assert done.code == 0, done.err
    same, other = done.json["pairs"]
    assert (same["first"], same["other"], other["other"]) == ("base", "again", "model")
    # Nothing differs, but 20 rows cannot show a margin of 1 % of what changed; they can show one of
    # .2.
    assert {
        line["verdict"] for line in same["lines"] if line["margin"] and line["low"] is not None
    } == {"not enough data"}
    wide = mpu(*arguments[:3], "--margin", "0.2", "--json").json["pairs"][0]["lines"]
    assert {
        line["verdict"]
        for line in wide
        if line["owner"] != "model" and line["metric"] != "ngram_entropy"
    } == {"equivalent"}
    assert {
        line["verdict"] for line in other["lines"] if line["metric"] == "answer_probability"
    } == {"different"}
    text = mpu(*arguments)
    assert text.code == 0
    assert all(
        word in text.out
        for word in (
            "forget answer_probability",
            "different",
            "not enough data",
            "±",
            "20 rows cannot show",
        )
    )


def test_compare_refuses_unusable_records(records, rows, mpu, tmp_path):
    """One record, the same record twice, another kind of directory, other rows."""
    root, _ = records
    assert mpu("compare", root / "base").code == 2
    assert mpu("compare", root / "base", root / "base").code == 2
    assert mpu("compare", root / "base", ASSETS / "model").code == 3
    (tmp_path / "forget.jsonl").write_text(
        "".join((rows / "forget.jsonl").read_text().splitlines(keepends=True)[:8])
    )
    less = ("eval", ASSETS / "base", "--forget", tmp_path / "forget.jsonl", "--no-generate", *QUICK)
    assert mpu(*less, "--record", tmp_path / "less").code == 0
    done = mpu("compare", root / "base", tmp_path / "less")
    assert done.code == 3
    assert "its forget set is not that of base" in done.err
    done = mpu(*less, "--retain-record", root / "base")
    assert done.code == 3
    assert "--retain-record: its forget set has other rows" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to evaluate on"),
        (
            ["--forget", "FORGET", "--metric", "answer_probabilty"],
            2,
            "--metric answer_probabilty: expected one of",
        ),
        (["--forget", "FORGET", "--metric", "ratio"], 2, "--metric ratio: expected one of"),
        (
            ["--forget", "FORGET", "--robustness", "prayer"],
            2,
            "--robustness prayer: expected one of",
        ),
        (["--forget", "FORGET", "--format", "csv"], 2, "--format"),
        (["--forget", "FORGET", "--batch-size", "0"], 2, "--batch-size 0"),
        (["--forget", "FORGET", "--temperature", "0"], 2, "--temperature 0"),
        (["--forget", "FORGET", "--temperature", "nan"], 2, "--temperature nan"),
        (
            ["--forget", "FORGET", "--max-length", "4096"],
            2,
            "--max-length 4096: the model's context has 128 tokens",
        ),
        (["--forget", "EMPTY"], 3, "has no rows"),
        (["--forget", "NOWHERE"], 3, "NOWHERE"),
        (["--forget", "FORGET", "--before", "NOWHERE"], 3, "summary.json: no such file"),
        (["--forget", "FORGET", "--utility", "model=FORGET"], 2, "cannot be called model"),
        (
            ["--forget", "FORGET", "--holdout", "FORGET"],
            3,
            "--forget: all of its rows (20) are in --holdout too",
        ),
        (["--forget", "FORGET", "--utility", "a=FORGET"], 3, "are in --utility a too"),
        (["--utility", "forget=FORGET"], 2, "cannot be called forget"),
        (["--utility", "a=FORGET", "--utility", "a=FORGET"], 2, "two sets are called a"),
    ],
)
def test_bad_input_is_one_line(arguments, code, message, rows, tmp_path, mpu):
    """With the documented code; an object with --json; nothing is left."""
    (tmp_path / "empty.jsonl").write_text("\n")
    names = {
        "FORGET": str(rows / "forget.jsonl"),
        "EMPTY": str(tmp_path / "empty.jsonl"),
        "NOWHERE": str(tmp_path / "NOWHERE"),
    }
    for name, path in names.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    command = [
        "eval",
        ASSETS / "model",
        *arguments,
        "--device",
        "cpu",
        "--record",
        tmp_path / "record",
    ]
    done = mpu(*command)
    assert done.code == code
    assert message in done.err
    assert len(done.err.splitlines()) <= 2
    assert done.out == ""
    told = mpu(*command, "--json").json
    assert told["error"]["exit_code"] == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.jsonl"]


def test_sets_that_share_rows(rows, tmp_path, mpu):
    """Some shared rows give a warning; if all are shared --allow-overlap is needed."""
    lines = [
        (rows / f"{name}.jsonl").read_text().splitlines(keepends=True)
        for name in ("holdout", "forget")
    ]
    (tmp_path / "mixed.jsonl").write_text("".join(lines[0][:4] + lines[1][:2]))
    quick = ("--no-generate", *QUICK)
    done = mpu(
        "eval",
        ASSETS / "base",
        "--forget",
        rows / "forget.jsonl",
        "--holdout",
        tmp_path / "mixed.jsonl",
        *quick,
    )
    assert done.code == 0, done.err
    assert (
        done.err.count(
            "mpu: warning: --forget: 2 of its 20 rows are in --holdout too: forget.jsonl:1 ="
            " mixed.jsonl:5, "
        )
        == 1
    )
    same = ("--forget", rows / "forget.jsonl", "--holdout", rows / "forget.jsonl")
    done = mpu("eval", ASSETS / "base", *same, "--allow-overlap", *quick)
    assert done.code == 0, done.err
    assert "mpu: warning: --forget: all of its rows (20) are in --holdout too" in done.err


def test_a_condition_fails_the_evaluation(rows, tmp_path, mpu):
    """Exit 1 after everything was printed and written; an unknown number is a usage error."""
    measured = ("eval", ASSETS / "base", "--retain", rows / "retain.jsonl", "--no-generate", *QUICK)
    record = tmp_path / "record"
    done = mpu(*measured, "--record", record, "--fail-if", "retain.answer_probability<2")
    assert done.code == 1 and (record / "summary.json").is_file()
    assert "retain.answer_probability<2: retain.answer_probability is" in done.err
    assert "answer_probability" in done.out
    found = mpu(*measured, "--json", "--fail-if", "retain.answer_probability<2")
    assert found.code == 1 and len(found.json["failed_gates"]) == 1 and found.json["error"]
    assert mpu(*measured, "--fail-if", "retain.answer_probability>2").code == 0
    wrong = mpu(*measured, "--fail-if", "retain.answer_probabilty<2")
    assert wrong.code == 2 and "retain.answer_probability" in wrong.err


def test_a_model_without_a_tokenizer_is_refused(rows, tmp_path, mpu):
    """Exit 3; the message names the missing file."""
    model = shutil.copytree(
        ASSETS / "model", tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*")
    )
    done = mpu("eval", model, "--forget", rows / "forget.jsonl", *QUICK)
    assert done.code == 3
    assert "no usable tokenizer" in done.err
    assert mpu("eval", tmp_path / "nowhere", "--forget", rows / "forget.jsonl").code == 3


def test_a_target_that_exists_is_refused_before_any_work(rows, tmp_path, mpu):
    """Exit 3 at once, and it does not change; --force replaces only a record."""
    target = tmp_path / "record"
    quick = (
        "--forget",
        rows / "forget.jsonl",
        "--no-generate",
        "--metric",
        "answer_probability",
        *QUICK,
    )
    assert mpu("eval", ASSETS / "base", *quick, "--record", target).code == 0
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    done = mpu("eval", tmp_path / "nowhere", *quick, "--record", target)
    assert done.code == 3
    assert "exists and is not empty" in done.err
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert mpu("eval", ASSETS / "model", *quick, "--record", target, "--force").code == 0
    assert {path.name: path.read_bytes() for path in target.iterdir()} != before
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("mine")
    assert mpu("eval", ASSETS / "model", *quick, "--record", own, "--force").code == 3
    assert (own / "thesis.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "record"]


def test_force_never_replaces_what_is_evaluated(rows, tmp_path, mpu):
    """The model's own directory as the record's target keeps its weights."""
    model = shutil.copytree(ASSETS / "model", tmp_path / "model")
    quick = (
        "--forget",
        rows / "forget.jsonl",
        "--no-generate",
        "--metric",
        "answer_probability",
        *QUICK,
    )
    done = mpu("eval", model, *quick, "--record", model, "--force")
    assert done.code == 2
    assert (model / "model.safetensors").read_bytes() == (
        ASSETS / "model" / "model.safetensors"
    ).read_bytes()
    record = tmp_path / "record"
    assert mpu("eval", model, *quick, "--record", record).code == 0
    assert mpu("eval", model, *quick, "--before", record, "--record", record, "--force").code == 2


def test_open_unlearnings_layout_is_written_and_read(records, rows, tmp_path, mpu):
    """--format open-unlearning writes a directory that --retain-record and compare read."""
    root, _ = records
    quick = (*given(rows), "--no-generate", *QUICK)
    assert (
        mpu(
            "eval",
            ASSETS / "base",
            *quick,
            "--format",
            "open-unlearning",
            "--record",
            tmp_path / "theirs",
        ).code
        == 0
    )
    assert sorted(path.name for path in (tmp_path / "theirs").iterdir()) == [
        ".mpu-files",
        "TOFU_EVAL.json",
        "TOFU_SUMMARY.json",
    ]
    done = mpu(
        "eval",
        ASSETS / "model",
        *quick,
        "--retain-record",
        tmp_path / "theirs",
        "--before",
        tmp_path / "theirs",
    )
    assert done.code == 0, done.err
    ours = json.loads((root / "model" / "summary.json").read_text())["values"]["model"][
        "privacy_leakage"
    ]["value"]
    assert f"{ours:.4f}" in done.out
    (line,) = [
        line for line in done.out.splitlines() if line.startswith("forget answer_probability ")
    ]
    assert line.split()[-1] != "–"
    assert mpu("compare", tmp_path / "theirs", root / "model").code == 0


def test_options_may_come_from_a_file(rows, tmp_path, mpu):
    """--config with sets and repeated options."""
    import yaml

    content = {
        "forget": str(rows / "forget.jsonl"),
        "metric": ["answer_probability", "extraction_strength"],
        "generate": False,
    }
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(content))
    done = mpu("eval", ASSETS / "base", "--config", tmp_path / "eval.yaml", "--json", *QUICK)
    assert done.code == 0, done.err
    assert set(done.json["values"]["forget"]) == {"answer_probability", "extraction_strength"}
    assert done.json["left_out"] == {}


def test_every_metric_and_check_is_listed(mpu):
    """Without a model, with meaning and source."""
    from mpu_cli.evaluation.metrics import all_metrics
    from mpu_cli.evaluation.robustness import all_checks

    told = mpu("eval", "--list-metrics", "--json").json
    shown = {name for name, metric in all_metrics().items() if getattr(metric, "shown", True)}
    assert {one["name"] for one in told["metrics"]} == shown
    assert {one["name"] for one in told["robustness"]} == set(all_checks())
    text = mpu("eval", "--list-metrics").out
    assert all(name in text for name in [*shown, *all_checks()])
    assert mpu("eval").code == 2


def test_a_run_with_all_robustness_checks(rows, tmp_path, mpu):
    """Their columns are in the summary, and every value is finite."""
    (tmp_path / "forget.jsonl").write_text(
        "".join((rows / "forget.jsonl").read_text().splitlines(keepends=True)[:6])
    )
    more = ("--robustness", "all", "--relearn-steps", "1", "--samples", "2", "--relearn-rows", "2")
    done = mpu(
        "eval", ASSETS / "model", "--forget", tmp_path / "forget.jsonl", *QUICK, *more, "--json"
    )
    assert done.code == 0, done.err
    found = done.json["values"]["forget"]
    for name in (
        "answer_probability@4-bit",
        "answer_probability@relearned-1@1e-5",
        "rouge_recall@paraphrased",
        "rouge_recall@leak-2",
    ):
        assert 0 < found[name]["value"] <= 1
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    assert "NaN" not in done.out


@pytest.mark.parametrize("command", ["eval", "compare"])
def test_help_loads_no_torch(command, quickly):
    """Neither torch nor transformers."""
    watch = (
        "import sys\nfrom mpu_cli.cli.app import run\ncode = run(sys.argv[1:])\nprint('LOADED',"
        " *sorted(set(sys.modules) & {'torch', 'transformers', 'scipy', 'numpy'}),"
        " file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", watch, command, "--help"],
        env=quickly,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "LOADED")


@pytest.mark.slow
def test_two_processes_give_the_record_of_one(records, rows, tmp_path, quickly):
    """Fifteen rows, which two processes cannot share equally, and relearning.

    The same numbers, and one process prints.
    """
    for name in ("forget", "retain", "holdout"):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join((rows / f"{name}.jsonl").read_text().splitlines(keepends=True)[:15])
        )
    more = (
        "--robustness",
        "relearning",
        "--robustness",
        "quantization",
        "--relearn-steps",
        "1",
        "--relearn-rate",
        "1e-3",
    )
    arguments = ["eval", ASSETS / "model", *given(tmp_path), *QUICK, *more, "--json"]
    one = start([*arguments, "--record", tmp_path / "one"], quickly)
    two = start([*arguments, "--record", tmp_path / "two"], quickly, processes=2)
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("\n") == 1
    assert json.loads(two.stdout)["sets"] == json.loads(one.stdout)["sets"]
    from mpu_cli.evaluation.records.read import read_record

    a, b = (read_record(tmp_path / name) for name in ("one", "two"))
    assert a.columns.keys() == b.columns.keys()
    for key, column in a.columns.items():
        assert np.allclose(column, b.columns[key], rtol=1e-4, atol=1e-6, equal_nan=True), key
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "forget.jsonl",
        "holdout.jsonl",
        "one",
        "retain.jsonl",
        "two",
    ]


@pytest.mark.slow
def test_two_processes_stop_together(rows, tmp_path, quickly):
    """Both refuse a bad row that only one of them reads, with one message and the right code."""
    row = {"question": "Who?", "answer": "Oskel " * 100}
    (tmp_path / "forget.jsonl").write_text(
        (rows / "forget.jsonl").read_text() + json.dumps(row) + "\n"
    )
    done = start(
        ["eval", ASSETS / "model", "--forget", tmp_path / "forget.jsonl", *QUICK],
        quickly,
        processes=2,
    )
    assert done.returncode != 0
    assert done.stderr.count("forget.jsonl:17: answer needs") == 1
    broken = shutil.copytree(ASSETS / "model", tmp_path / "broken")
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    done = start(["eval", broken, "--forget", rows / "forget.jsonl", *QUICK], quickly, processes=2)
    assert done.returncode != 0
    assert done.stderr.count("the model's logits are not finite") == 1
