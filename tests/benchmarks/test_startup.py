"""Light commands take less than importing, in the ordinary way, what they need.

Nothing heavy comes in by the way.
"""

import subprocess
import sys

import pytest
import startup


@pytest.fixture(scope="module")
def lights(tmp_path_factory):
    """The benchmark's commands, with their files."""
    return startup.commands(tmp_path_factory.mktemp("startup"))


@pytest.mark.parametrize(
    "name",
    [
        "compare",
        "data check",
        "data check --model",
        pytest.param("unlearn, until it trains", marks=pytest.mark.slow),
    ],
)
def test_a_light_command_costs_no_more_than_its_needs(lights, name):
    """CPU-seconds as a ratio, so that a slow machine is no excuse.

    Measured again where the first look was not enough.
    """
    light = lights[name]
    ratios = []
    for _ in range(3):
        own, needs = startup.measure(light, repeats=1)
        ratios.append(own / needs)
        if ratios[-1] <= light.bar:
            return
    pytest.fail(f"{name}: {ratios} of `{light.needs}`, expected {light.bar} or less")


HEAVY = {
    "torch",
    "scipy.stats",
    "sklearn",
    "pandas",
    "peft",
    "accelerate",
    "transformers.modeling_utils",
    "transformers.trainer",
}


@pytest.mark.parametrize("name", ["compare", "data check --model"])
def test_what_a_light_command_imports(lights, name):
    """The program itself, as a process.

    No torch, no statistics package, no machinery for models.
    """
    arguments = list(lights[name].arguments)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mpu_cli", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mpu_cli.cli.app" in imported
    assert not imported & HEAVY


def test_torch_is_there_again_afterwards(tmp_path):
    """Without torch only while a tokenizer is read.

    What is imported later finds the real one, and a second use does nothing.
    """
    code = (
        "import sys; from mpu_cli.cli import light\n"
        "with light.without_torch(): assert 'torch' not in sys.modules\n"
        "light.ends_after_one_command()\n"
        "with light.without_torch(): assert sys.modules['torch'] is None\n"
        "assert 'torch' not in sys.modules\n"
        "import scipy.stats\n"
        "sys.modules['torch'] = torch = type(sys)('torch')\n"
        "with light.without_torch(): assert sys.modules['torch'] is torch\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
