"""The benchmarks of evaluation run as their doc strings say, on the demo's model."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _run(script, *options):
    done = subprocess.run(
        [sys.executable, script, *options, "--json"],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_speed(tmp_path):
    """Both ratios are measured on the rows given."""
    rows = tmp_path / "rows.jsonl"
    assets = Path(__file__).parents[2] / "src/mpu_cli/demo/assets"
    rows.write_text("".join((assets / "forget.jsonl").read_text().splitlines(keepends=True)[:6]))
    code, found = _run(
        "evaluation.py", "--rows", rows, "--repeats", "1", "--questions", "4", "--one-by-one", "2"
    )
    assert code == 0
    assert found["scoring"]["texts"] == sum(
        2 + len(json.loads(line)["perturbed_answer"]) for line in rows.read_text().splitlines()
    )
    assert found["scoring"]["ratio"] > 0 < found["generation"]["ratio"]
