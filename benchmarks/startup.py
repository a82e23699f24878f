"""CPU time of light commands, as a ratio to importing what they need, each in its own process.

    python benchmarks/startup.py                # five repeats: about 3 minutes

The whole process counts (user + system time, the least of the repeats). What a command needs is
imported in the ordinary way, `import numpy, scipy.stats` say, so a ratio below 1 means that the
command imports less. `--help`, `--version`, usage errors and completion need typer and rich.
`unlearn` ends where training would begin, on the demo's model. Each command has a bar: the highest
ratio that is accepted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from measuring import describe, machine
from one_round import table, verdict

import mpu_cli.demo

ASSETS = Path(mpu_cli.demo.__file__).parent / "assets"
ROWS = 40
UNTIL_TRAINING = """
import os, sys
from transformers import Trainer
Trainer.train = lambda *_, **__: os._exit(0)
from mpu_cli.cli.app import run
sys.exit(run(sys.argv[1:]) or "there was no training")
"""


@dataclass(frozen=True, slots=True)
class Light:
    """A command, what it needs, and the highest ratio of their CPU times."""

    arguments: tuple[str, ...]
    needs: str
    bar: float
    program: tuple[str, ...] = ("-m", "mpu_cli")
    exit_code: int = 0
    environment: dict[str, str] = field(default_factory=dict)


BARE = "import typer, rich"
PARSER = 1.5
"""The bar of what only reads the command line."""


def command_lines() -> dict[str, Light]:
    """The commands that only read the command line, by name."""
    complete = {"_MPU_COMPLETE": "complete_bash", "COMP_WORDS": "mpu p", "COMP_CWORD": "1"}
    return {
        "--help": Light(("--help",), BARE, PARSER),
        "--version": Light(("--version",), BARE, PARSER),
        "nonsense": Light(("nonsense",), BARE, PARSER, exit_code=2),
        "perturb --nonsense": Light(("perturb", "--nonsense"), BARE, PARSER, exit_code=2),
        "p<TAB>": Light((), BARE, PARSER, environment=complete),
    }


def commands(root: Path) -> dict[str, Light]:
    """All commands by name; their files are made below `root`."""
    records = [
        str(_write_record(root / name, shift)) for name, shift in (("first", 0.0), ("other", 0.01))
    ]
    one = root / "one.jsonl"
    one.write_text(
        (ASSETS / "forget.jsonl").read_text(encoding="utf-8").splitlines()[0] + "\n",
        encoding="utf-8",
    )
    model, forget, retain = (
        str(ASSETS / name) for name in ("model", "forget.jsonl", "retain.jsonl")
    )
    unlearn = (
        "unlearn",
        model,
        "--forget",
        str(one),
        "--method",
        "GradAscent",
        "--epochs",
        "1",
        "--device",
        "cpu",
    )
    trainer = "import torch; from transformers import AutoTokenizer, LlamaForCausalLM, Trainer"
    return command_lines() | {
        "compare": Light(("compare", *records), "import numpy, scipy.stats", 1.0),
        "data check": Light(("data", "check", forget, "--retain", retain), "import numpy", 5.0),
        "data check --model": Light(
            ("data", "check", forget, "--retain", retain, "--model", model),
            "from transformers import AutoTokenizer",
            1.0,
        ),
        "unlearn, until it trains": Light(
            (*unlearn, "--out", str(root / "unlearned"), "--force"),
            trainer,
            1.2,
            ("-c", UNTIL_TRAINING),
        ),
    }


def cpu(arguments: tuple[str, ...], exit_code: int = 0, **environment: str) -> float:
    """CPU seconds of one Python process.

    Raises:
        RuntimeError: it ended with another exit code.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **environment},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != exit_code:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()[-1000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(light: Light, repeats: int) -> tuple[float, float]:
    """CPU seconds of the command and of its needs: the least of the repeats, run in turn.

    The command runs once before: an installed package is compiled already.
    """
    arguments = (*light.program, *light.arguments)
    cpu(arguments, light.exit_code, **light.environment)
    pairs = [
        (cpu(arguments, light.exit_code, **light.environment), cpu(("-c", light.needs)))
        for _ in range(repeats)
    ]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def _write_record(target: Path, shift: float) -> Path:
    """Write a record of forget and holdout rows, which has an area between the two sets."""
    import numpy as np

    from mpu_cli.evaluation.records.record import Record, SetInfo
    from mpu_cli.evaluation.records.write import write_record

    spread = np.linspace(0.1, 0.7, ROWS) + shift
    columns = {
        (name, metric): spread
        for name in ("forget", "holdout")
        for metric in ("answer_probability", "loss")
    }
    sets = {name: SetInfo(name, ROWS, name) for name in ("forget", "holdout")}
    write_record(target, Record({"name": "synthetic"}, {}, sets, columns), "mpu", texts=False)
    return target


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--repeats",
        type=int,
        default=5,
        help="how often each is run (default 5; the least is printed)",
    )
    options.add_argument("--json", action="store_true", help="print JSON")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="mpu-startup-") as folder:
        lights = commands(Path(folder))
        found = {name: measure(light, given.repeats) for name, light in lights.items()}
    if given.json:
        print(
            json.dumps(
                {
                    "machine": machine(),
                    "cpu_seconds": found,
                    "bars": {name: light.bar for name, light in lights.items()},
                }
            )
        )
        return
    print(describe(machine()))
    lines = [["", "CPU s", "what it needs", "CPU s", "ratio"]]
    for name, (own, needs) in found.items():
        lines.append(
            [f"mpu {name}", f"{own:.2f}", lights[name].needs, f"{needs:.2f}", f"{own / needs:.2f}"]
        )
    print(table(lines))
    for name, (own, needs) in found.items():
        print(f"  mpu {name}: {verdict(own / needs, lights[name].bar)}")


if __name__ == "__main__":
    main()
