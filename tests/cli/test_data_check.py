"""`mpu data check`: findings, output and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHATML = (
    "{% for m in messages %}w1 {{ m['role'] }} w2 {{ m['content'] }} w3 {% endfor %}"
    "{% if add_generation_prompt %}w1 assistant w2 {% endif %}"
)


def write(path: Path, *rows: dict) -> Path:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def forget(tmp_path) -> Path:
    """Three rows; the last one is the first in another spelling."""
    rows = [("w1 w2 ?", "w3 w4 ."), ("w5 w6 ?", "w7 " * 40), ("W1  w2 ?", "w3 w4 .")]
    return write(
        tmp_path / "forget.jsonl",
        *({"question": question, "answer": answer} for question, answer in rows),
    )


def test_a_report_without_a_model(mpu, forget):
    """Rows, form, lengths in characters, duplicates; no tokens, and torch is not loaded."""
    done = mpu("data", "check", forget, "--json")
    assert done.code == 0
    assert done.err == ""
    found = done.json["files"][str(forget)]
    assert (found["rows"], found["forms"], found["tokens"], found["bad"]) == (
        3,
        {"prompt/answer": 3},
        None,
        [],
    )
    assert found["characters"] == {"least": 14, "median": 15, "most_of_95": 127, "most": 127}
    assert found["duplicates"] == [["forget.jsonl:1", "forget.jsonl:3"]]
    assert done.json["sample"] is None
    done = mpu("data", "check", forget)
    assert "3 (prompt/answer)" in done.out
    assert (
        "mpu: warning: forget.jsonl: 1 row occurs more than once: forget.jsonl:1 = forget.jsonl:3"
        in done.err
    )
    code = (
        "import sys; from mpu_cli.cli.app import run; run(sys.argv[1:]); assert 'torch' not in"
        " sys.modules and 'rich' in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code, "data", "check", str(forget)], check=True, capture_output=True
    )


def test_a_report_with_a_model(mpu, forget, finished_round):
    """Token lengths, rows cut at --max-length, and a row with its trained tokens marked.

    A handoff works as a model.
    """
    for model in (finished_round.model, finished_round.handoff):
        done = mpu("data", "check", forget, "--model", model, "--max-length", 16, "--json")
        found = done.json["files"][str(forget)]
        assert found["tokens"] == {"least": 7, "median": 7, "most_of_95": 44, "most": 44}
        assert found["answer_tokens"] == {"least": 4, "median": 4, "most_of_95": 13, "most": 13}
        assert found["cut"] == ["forget.jsonl:2"]
        assert done.json["sample"]["parts"] == [["w1 w2 ?", False], [" w3 w4 . </s>", True]]
        assert done.json["sample"]["labels"].count(-100) == 3
    done = mpu("data", "check", forget, "--model", finished_round.model, "--max-length", 16)
    assert "w1 w2 ?⟦ w3 w4 . </s>⟧" in done.out
    assert (
        "forget.jsonl: 1 row is cut at 16 tokens (--max-length), the first is forget.jsonl:2"
        in done.err
    )


def test_the_sample_has_the_tokens_of_training(mpu, forget, finished_round, tmp_path):
    """With a chat template and --row 2: exactly the ids and labels of `encode`."""
    from transformers import AutoTokenizer

    from mpu_cli.data.rows import read_rows
    from mpu_cli.data.templates import encode

    directory = tmp_path / "tokenizer"
    directory.mkdir()
    for file in finished_round.model.glob("*token*"):
        shutil.copy(file, directory)
    (directory / "chat_template.jinja").write_text(CHATML)
    done = mpu(
        "data", "check", forget, "--tokenizer", directory, "--row", 2, "--max-length", 20, "--json"
    )
    sample = done.json["sample"]
    encoded = encode(read_rows(forget)[1], AutoTokenizer.from_pretrained(directory), 20)
    assert (tuple(sample["input_ids"]), tuple(sample["labels"])) == (
        encoded.input_ids,
        encoded.labels,
    )
    assert sample["where"] == "forget.jsonl:2"
    assert sample["whole"] > 40
    assert [counts for _, counts in sample["parts"]] == [False, True]


def test_forget_and_retain_that_overlap(mpu, forget, tmp_path):
    """A warning names both rows, exit 1 only with --strict.

    A prompt that is retained with another answer is reported too.
    """
    rows = [
        {"prompt": "w5 W6 ?", "completion": "w9"},
        {"prompt": "w1 w2 ?", "completion": "w3  w4 ."},
    ]
    retain = write(tmp_path / "retain.jsonl", *rows)
    done = mpu("data", "check", forget, "--retain", retain)
    assert done.code == 0
    assert (
        "2 rows are in both the forget and the retain set: forget.jsonl:1 = retain.jsonl:2"
        in done.err
    )
    assert (
        "1 row has the prompt of a retain row with another answer: forget.jsonl:2 / retain.jsonl:1"
        in done.err
    )
    strict = mpu("data", "check", forget, "--retain", retain, "--strict")
    assert strict.code == 1
    assert "mpu: error: --strict: 3 warning(s)" in strict.err
    told = mpu("data", "check", forget, "--retain", retain, "--strict", "--json")
    assert (told.code, told.err, told.json["error"]["kind"], told.json["error"]["exit_code"]) == (
        1,
        "",
        "CheckFailed",
        1,
    )
    assert told.json["in_both"] == [
        ["forget.jsonl:1", "retain.jsonl:2"],
        ["forget.jsonl:3", "retain.jsonl:2"],
    ]
    clean = write(tmp_path / "clean.jsonl", {"text": "w8"})
    assert mpu("data", "check", clean, "--retain", retain, "--strict").code == 0


def test_one_file_given_twice_overlaps_with_itself(mpu, forget, tmp_path):
    """Under one name, another spelling, or as a link: every row is in both files."""
    (tmp_path / "link.jsonl").symlink_to(forget)
    for other in (forget, tmp_path / "sub" / ".." / forget.name, tmp_path / "link.jsonl"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        done = mpu("data", "check", forget, "--retain", other, "--json")
        assert done.code == 0
        assert [place for place, _ in done.json["in_both"]] == [
            f"forget.jsonl:{number}" for number in (1, 2, 3)
        ]
        done = mpu("data", "check", forget, "--retain", other, "--strict")
        assert done.code == 1
        assert done.out.count("3 (prompt/answer)") == 2
        assert "3 rows are in both the forget and the retain set: forget.jsonl:1 = " in done.err
        assert "which is every row of one of the files" in done.err


def test_every_bad_row_is_listed(mpu, tmp_path, finished_round):
    """All of them with file and line, empty answers counted, exit 3.

    With --json the error is in the one object.
    """
    bad = tmp_path / "bad.jsonl"
    rows = [
        '{"text": "w1 w2 w3"}',
        '{"question": "w1", "answer": ""}',
        '{"text": ',
        '{"text": "w1"}',
    ]
    bad.write_text("\n".join(rows))
    done = mpu("data", "check", bad, "--model", finished_round.model, "--json")
    found = done.json["files"][str(bad)]
    assert (done.code, found["rows"], found["empty"]) == (3, 1, 1)
    assert [error["message"].split(": ")[0] for error in found["bad"]] == [
        "bad.jsonl:2",
        "bad.jsonl:3",
        "bad.jsonl:4",
    ]
    assert "no answer token is left" in found["bad"][2]["message"]
    assert done.json["error"] == {
        "kind": "BadData",
        "message": "3 rows cannot be used, the first: bad.jsonl:2: 'answer' is empty",
        "hint": "remove the row or fill it in",
        "exit_code": 3,
    }
    done = mpu("data", "check", bad)
    assert done.code == 3
    assert "2: bad.jsonl:2: 'answer' is empty" in done.out
    assert done.err.splitlines()[-1] == "mpu: hint: remove the row or fill it in"


def test_long_texts_and_packing(mpu, tmp_path, finished_round):
    """A long text becomes windows, short ones rows or, with --packing, blocks."""
    texts = write(
        tmp_path / "raw.jsonl",
        {"text": "w1 w2 " * 30},
        *({"text": f"w3 w{number}"} for number in range(4, 10)),
    )
    given = ("data", "check", texts, "--model", finished_round.model, "--max-length", 16)
    found = mpu(*given, "--json").json["files"][str(texts)]
    assert (found["rows"], found["split"], found["cut"], found["trained_rows"]) == (
        7,
        ["raw.jsonl:1"],
        [],
        5 + 6,
    )
    packed = mpu(*given, "--packing", "--overlap", 8, "--json")
    assert packed.json["files"][str(texts)]["trained_rows"] == 7 + 2
    assert any("6 texts in 2 blocks (--packing)" in line for line in packed.json["warnings"])
    assert mpu(*given, "--overlap", 16).code == 2


def test_a_mapping_for_both_files(mpu, tmp_path):
    """--map works for CSV and JSON; an unknown column gets a suggestion."""
    (tmp_path / "forget.csv").write_text("instruction,output\nQ,A\n")
    retain = write(tmp_path / "retain.jsonl", {"instruction": "q", "output": "a"})
    mapped = ("--map", "prompt=instruction", "--map", "answer=output")
    done = mpu("data", "check", tmp_path / "forget.csv", "--retain", retain, *mapped, "--json")
    assert done.json["in_both"] == [["forget.csv:2", "retain.jsonl:1"]]
    done = mpu(
        "data",
        "check",
        tmp_path / "forget.csv",
        "--map",
        "prompt=instructions",
        "--map",
        "answer=output",
    )
    assert (done.code, done.err.splitlines()) == (
        3,
        [
            "mpu: error: forget.csv: no column 'instructions' (--map prompt=instructions)",
            "mpu: hint: did you mean instruction?",
        ],
    )


def test_parquet(mpu, tmp_path, monkeypatch):
    """Read if pyarrow is installed; without it one line with a hint."""
    path = tmp_path / "forget.parquet"
    path.write_bytes(b"PAR1")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyarrow", None)
        done = mpu("data", "check", path)
    assert (done.code, len(done.err.splitlines())) == (3, 2)
    assert 'pip install "mpu-cli[parquet]"' in done.err
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet is the extra [parquet]")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"instruction": ["Q"], "output": ["A"]}), path)
    mapped = ("--map", "prompt=instruction", "--map", "answer=output")
    assert mpu("data", "check", path, *mapped, "--json").json["files"][str(path)]["rows"] == 1
    assert (
        "did you mean instruction?"
        in mpu("data", "check", path, "--map", "prompt=instructions", "--map", "answer=output").err
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("no.jsonl",), 3, "no such file"),
        (("forget.jsonl", "--map", "promt=q"), 2, "did you mean prompt?"),
        (("forget.jsonl", "--row", 9), 2, "--row 9: the file has 3 usable rows"),
        (("forget.jsonl", "--model", "x", "--tokenizer", "y"), 2, "give one of them"),
        (("forget.jsonl", "--model", "/no/model"), 3, "/no/model"),
        (("forget.jsonl", "--max-length", 1), 2, "max-length"),
        (("forget.jsonl", "--retian", "x"), 2, "no such option"),
        ((), 2, "missing argument"),
    ],
)
def test_usage_and_bad_input(mpu, forget, monkeypatch, arguments, code, words):
    """The documented codes, one line and a hint."""
    monkeypatch.chdir(forget.parent)
    done = mpu("data", "check", *arguments)
    assert done.code == code
    assert words in done.err
    assert "Traceback" not in done.err


def test_a_group_of_commands(mpu, forget, tmp_path):
    """`mpu data` alone and a mistyped subcommand are usage errors with a hint."""
    assert (mpu("data").code, mpu("data", "chek").code) == (2, 2)
    assert "did you mean check?" in mpu("data", "chek").err
    assert "Usage: mpu data check" in mpu("data", "check", "-h").out
    assert mpu("data", "check", "-h").out == mpu("data", "check", "--help").out
    config = tmp_path / "options.yaml"
    config.write_text("strict: true\n")
    assert mpu("data", "check", forget, "--config", config).code == 1
    config.write_text("strikt: true\n")
    assert "did you mean strict?" in mpu("data", "check", forget, "--config", config).err


def test_control_characters_are_escaped(mpu, tmp_path, finished_round):
    """In a row and in the name of a column."""
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"text": "w1 \\u001b[2J w2"}\n')
    assert "\x1b" not in mpu("data", "check", odd, "--model", finished_round.model).out
    odd.write_text('{"\\u001b[2J": "w1"}\n')
    done = mpu("data", "check", odd)
    assert done.code == 3
    assert "\x1b" not in done.out + done.err


def test_rows_from_the_hub(tmp_path, environment):
    """hf://datasets/… offline from the cache, in a real process."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    root = tmp_path / "home" / "hub" / "datasets--org--rows"
    (root / "snapshots" / commit).mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    write(root / "snapshots" / commit / "forget.jsonl", {"question": "Q", "answer": "A"})
    environment.pop("HF_HUB_CACHE", None)
    environment |= {
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "PATH": os.environ["PATH"],
    }
    address = "hf://datasets/org/rows/forget.jsonl"
    arguments = [sys.executable, "-m", "mpu_cli", "data", "check", address, "--json"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"][address]["rows"] == 1
