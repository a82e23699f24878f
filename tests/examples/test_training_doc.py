"""docs/training.md and docs/lora.md.

Their tables are what the code says, and their commands run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mpu_cli.cli.app import run
from mpu_cli.cli.unlearn_view import trained_with
from mpu_cli.client import methods
from mpu_cli.training import optimizers

DOCS = Path(__file__).parents[2] / "docs"
TRAINING = (DOCS / "training.md").read_text(encoding="utf-8")
LLAMA_7B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
}


def commands(page: str, kind: str) -> list[list[str]]:
    """The `mpu` commands of the ```sh blocks marked so, as arguments."""
    blocks = re.findall(
        rf"```sh {kind}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL
    )
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(("mpu ", "torchrun "))]


@pytest.mark.slow
def test_the_table_of_methods_is_what_the_files_declare():
    """Name, parameters with their defaults, and paper of every method."""
    rows = [
        re.split(r" *\| *", line)[1:-1]
        for line in re.findall(r"^\| [\w-]+ \|.*arxiv.*\|$", TRAINING, re.MULTILINE)
    ]
    found = {name: (sets, paper) for name, _, sets, paper in rows}
    declared = {
        info.name: (
            " ".join(
                p.name
                if p.default is None
                else f"{p.name}={p.default:g}"
                if p.type is not str
                else f"{p.name}={p.default}"
                for p in info.parameters
            ),
            f"[{info.paper.rpartition('/')[2]}]({info.paper})",
        )
        for info in methods.describe()
    }
    assert found == declared


@pytest.mark.slow
def test_the_sources_of_defaults_are_what_the_files_declare():
    """Each parameter's default and where it was read.

    Each method's training settings and where they were read.
    """
    page = (DOCS / "method-defaults.md").read_text(encoding="utf-8")
    infos = methods.describe()
    defaults = [
        f"| {info.name} | {p.name} |"
        f" {'–' if p.default is None else p.default if p.type is str else f'{p.default:g}'} |"
        f" {p.source} |"
        for info in infos
        for p in info.parameters
    ]
    settings = [
        f"| {info.name} | `{trained_with(info)}` | {info.recommended_by} |" for info in infos
    ]
    assert [
        line
        for line in page.splitlines()
        if line.startswith("| ") and not line.startswith("| method")
    ] == defaults + settings


@pytest.mark.slow
def test_the_table_of_optimizers_is_what_the_files_declare():
    """Every name, smooth or not, sharded or not."""
    rows = re.findall(
        r"^\| `([\w-]+)`[^|]*\|[^|]*\| \**(yes|no)\** \| (yes|no) \|", TRAINING, re.MULTILINE
    )
    declared = {name: optimizers.get(name) for name in optimizers.names()}
    assert {row[0]: row[1:] for row in rows} == {
        name: tuple("yes" if one else "no" for one in (spec.smooth, spec.sharded))
        for name, spec in declared.items()
    }


@pytest.fixture
def client(tiny_pair, tmp_path, monkeypatch, capfd) -> Path:
    """What the pages' commands find: a handoff of two copies, rows, a config.json."""
    pair = tiny_pair("llama")
    for name, start in (("forget", 0), ("retain", 30)):
        rows = [
            {"question": f"w{i} ?", "answer": f"w{i + 1} w{i + 2} ."}
            for i in range(start, start + 4)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "llama-7b.json").write_text(json.dumps(LLAMA_7B))
    monkeypatch.chdir(tmp_path)
    assert (
        run(
            [
                "perturb",
                str(pair.model),
                "--base",
                str(pair.base),
                "--handoff",
                "to-client",
                "--secret",
                "server",
                "-m",
                "2",
            ]
        )
        == 0
    )
    return tmp_path


def test_the_commands_of_one_process_run(client, capfd):
    """Every block marked `run`, in order, in one process."""
    for page in ("training.md", "lora.md"):
        for program, *arguments in commands(page, "run"):
            if program == "mpu":
                assert run(arguments) == 0, (arguments, capfd.readouterr().err)
    assert {"to-server", "early", "spread", "adapters"} <= {path.name for path in client.iterdir()}
    assert not list(client.glob(".*"))


@pytest.mark.slow
def test_the_command_of_two_processes_runs(client):
    """torchrun, as the page has it."""
    found = [one for one in commands("training.md", "run") if one[0] == "torchrun"]
    assert found and shutil.which("torchrun")
    for command in found:
        subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            timeout=300,
        )


def test_the_table_of_a_7b_model_is_what_dry_run_prints(client, capfd):
    """Every number of every row."""
    block = re.search(r"```sh 7b\n.*?```", TRAINING, re.DOTALL)
    assert block is not None
    ways = [shlex.split(each) for each in re.findall(r'"([^"]*)"', block[0].splitlines()[1])]
    rows = re.findall(r"^\| (?:full|LoRA)[^|]*\|(.*)\|$", TRAINING, re.MULTILINE)
    assert len(ways) == len(rows) == 5
    keys = (
        "weights",
        "gradients",
        "optimizer state",
        "activations",
        "memory",
        "checkpoint disk",
        "sent",
    )
    fixed = (
        next(line for line in block[0].splitlines() if "$options" in line)
        .strip()
        .removesuffix(" $options")
    )
    for way, row in zip(ways, rows, strict=True):
        capfd.readouterr()
        assert run([*shlex.split(fixed)[1:], *way]) == 0
        printed = dict(
            re.findall(r"^([a-z ]+) bytes +(\S+ \S+)", capfd.readouterr().out, re.MULTILINE)
        )
        assert [cell.strip(" *") for cell in row.split("|")] == [printed[key] for key in keys]
