"""Peak memory on a model of SmolLM2-135M's size, measured by the benchmark."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"


def test_the_sampler_sees_a_short_allocation():
    """Control: 64 MiB that a child holds for 50 ms are in the measured peak, and nothing else of that size is."""
    spec = importlib.util.spec_from_file_location("memory_benchmark", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    code = "import time; print('ready', flush=True); input(); {}; time.sleep(.05); del x; print(0, 0, flush=True); input()"
    assert 64 <= benchmark.measured(code.format("x = b'1' * (64 << 20)"))["peak_mib"] < 80
    assert benchmark.measured(code.format("x = 1"))["peak_mib"] < 8


@pytest.mark.slow
def test_perturb_and_aggregate_stay_within_300_mib():
    """Anonymous memory above the imports is at most 300 MiB for a 135M-parameter float32 model and three copies."""
    done = subprocess.run([sys.executable, SCRIPT, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    for command in ("perturb", "aggregate"):
        assert found[command]["samples"] > 50 and 1 < found[command]["peak_mib"] <= 300
