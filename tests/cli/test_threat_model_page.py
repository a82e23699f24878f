"""The commands of docs/threat-model.md run, and measure what the page says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_documented_commands import HOME, documented

PAGE = HOME / "docs" / "threat-model.md"
WRONG = {
    "handoff to-client": "one_copy<.09 or one_copy>.11 or all_copies>1e-5 or exact<.9",
    "update to-server": "membership_loss_change<.8 or membership_gradient_cosine<.8 or steps>200",
    "trace to-client/copy-1": "copies_named!=1 or largest_z<20",
}
"""What must not be measured, by audit and first argument: --fail-if makes it exit with 1."""


@pytest.mark.slow
def test_the_commands_of_the_threat_model_measure_what_it_says(mpu, tmp_path, monkeypatch):
    """On the demo's model and rows, in the page's order."""
    shutil.copytree(HOME / "src/mpu_cli/demo/assets", tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith(("head ", "tail ")) and "smol/" not in line:  # needs TOFU's rows
            subprocess.run(line, shell=True, check=True)
    assert Path("keep.jsonl").stat().st_size > Path("decoys.jsonl").stat().st_size
    measured = set()
    for words in documented(PAGE):
        case = " ".join(words[2:4]) if words[1] == "audit" else ""
        gate = ("--fail-if", WRONG[case]) if case in WRONG and case not in measured else ()
        done = mpu(*words[1:], *gate)
        assert done.code == 0, (words, done.out, done.err)
        measured.add(case)
        for line in re.findall(r"^1 and 2 .*$", done.out, re.MULTILINE):
            measured.add("between rounds")
            assert float(re.findall(r"\b\d\S*e-\d+", line)[0]) < 1e-4, line
    assert {*WRONG, "between rounds"} <= measured
