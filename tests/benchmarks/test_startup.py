"""Light commands take little more CPU time than importing what they need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import startup


@pytest.fixture(scope="module")
def lights(tmp_path_factory):
    """The benchmark's commands, with their files."""
    return startup.commands(tmp_path_factory.mktemp("startup"))


@pytest.mark.parametrize("name", startup.command_lines())
def test_reading_a_command_line_costs_what_typer_costs(name):
    """The bar of the benchmark is 1.5; more is allowed here, because other tests run beside it."""
    own, needs = startup.measure(startup.command_lines()[name], repeats=5)
    assert own <= 1.8 * needs


NOT_FOR_HELP = {"numpy", "yaml", "torch", "pydantic", "rich.console", "cryptography"}


def imported_by(light: startup.Light) -> set[str]:
    """The modules that a command has imported when it ends."""
    code = (
        "import atexit, sys; from mpu_cli.__main__ import main;"
        " atexit.register(lambda: print(*sys.modules, sep='\\n', file=sys.stderr)); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *light.arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | light.environment,
    )
    assert done.returncode == light.exit_code
    return set(done.stderr.splitlines())


@pytest.mark.parametrize("name", startup.command_lines())
def test_what_reading_a_command_line_imports(name):
    """Only what typer imports; of the commands only the one that is named."""
    light = startup.command_lines()[name]
    imported = imported_by(light)
    assert "mpu_cli.cli.app" in imported
    assert not imported & NOT_FOR_HELP
    commands = {module for module in imported if module.startswith("mpu_cli.cli.commands.")}
    assert commands == {
        f"mpu_cli.cli.commands.{word}" for word in light.arguments if word == "perturb"
    }


GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    "line", ["inspect handoff-v1", "inspect update-v1", "inspect secret-v1", "verify secret-v1"]
)
def test_what_reads_no_numbers_imports_no_numpy(line):
    """Manifests, headers and records are texts."""
    command, name = line.split()
    imported = imported_by(startup.Light((command, str(GOLDEN / name)), "", 0))
    assert f"mpu_cli.cli.commands.{command}" in imported
    assert not imported & {"numpy", "torch", "scipy", "transformers"}


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
    """As a ratio of CPU times, which a slow machine does not change; measured up to three times."""
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
    """No torch, no statistics package, and nothing of transformers that models need."""
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
    """Torch is hidden only while a tokenizer is read; a later import finds the real one."""
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
