"""Peak memory on a model of SmolLM2-135M's size, measured by the benchmark."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.mark.slow
def test_every_command_stays_within_the_bar(tmp_path):
    """Memory above the imports is at most 150 MiB for 135M float32 parameters and three copies."""
    command = [sys.executable, SCRIPT, "--size", "135m", "--masked", "--json"]
    command += ["--work", tmp_path]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for name, cost in report["sizes"]["135m"]["3"].items():
        assert cost["samples"] > 50 and 1 < cost["peak_mib"] <= 150, name
