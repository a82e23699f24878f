"""Find a learning rate for each method of a plan: `make rates`, or `python rates.py paper.yaml`.

The authors' rate of 1e-5 does nothing to a model as small as the demo's. Each method is run without
noise, with the rounds, epochs and options of the plan and its first seed, at rates of the ladder
1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8 times a power of ten. The rule, fixed before the first run:
take the lowest rate that forgets (mean answer probability of the forget rows at most .5); if that
loses retained rows (below .8), take the highest rate that does not. The search starts at the rate
that the plan has. About six minutes for the eight methods on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

FORGOTTEN, RETAINED = 0.5, 0.8
LADDER = ("1", "1.25", "1.6", "2", "2.5", "3.2", "4", "5", "6.3", "8")
MOST_STEPS = 8
"""Steps on the ladder above the plan's own rate."""


def rate_at(place: int) -> float:
    """The rate at a place of the ladder; 0 is 1e-5."""
    return float(f"{LADDER[place % len(LADDER)]}e{place // len(LADDER) - 5}")


def place_of(rate: float) -> int:
    """The place of a rate on the ladder.

    Raises:
        ValueError: it is not on it.
    """
    return [rate_at(place) for place in range(5 * len(LADDER))].index(rate)


def search(start: int, measure: Callable[[float], tuple[float, float]]) -> int | None:
    """The place of the rate that the rule takes; None if no rate keeps the retained rows.

    Args:
        start: the place of the first rate that is tried.
        measure: forget and retain probability at a rate.
    """
    tried: dict[int, tuple[float, float]] = {}

    def at(place: int) -> tuple[float, float]:
        if place not in tried:
            tried[place] = measure(rate_at(place))
        return tried[place]

    place, highest = start, start + MOST_STEPS
    while place > 0 and at(place)[0] <= FORGOTTEN:
        place -= 1
    while place < highest and at(place)[0] > FORGOTTEN and at(place)[1] >= RETAINED:
        place += 1
    while place > 0 and at(place)[1] < RETAINED:
        place -= 1
    return place if place > 0 else None


class Runs:
    """Noise-free runs of one plan."""

    def __init__(self, plan: Path, variant: str | None) -> None:
        """Read the plan; its files are named relative to it."""
        self.variant = variant
        self.content = yaml.safe_load(plan.read_text(encoding="utf-8"))
        self.folder = plan.resolve().parent

    def options(self, method: str) -> dict[str, Any]:
        """The options of `mpu unlearn`; those of the variant win."""
        layers = [self.content, self.content["methods"][method]]
        if self.variant:
            chosen = self.content["variants"][self.variant]
            layers += [chosen, chosen.get("methods", {}).get(method, {})]
        return {name: value for layer in layers for name, value in layer["unlearn"].items()}

    def measure(self, method: str, rate: float) -> tuple[float, float]:
        """Forget and retain probability after all rounds of a method at a rate."""
        from mpu_cli.data.rows import read_rows
        from mpu_cli.evaluation.answer_scores import answer_probabilities

        measured = [self.folder / self.content["data"][role] for role in ("forget", "retain")]
        model = self.folder / self.content["model"]
        settings = self.content["methods"][method]
        options = {**self.options(method), "learning_rate": rate}
        data = {
            role: str(self.folder / file)
            for role, file in self.content["data"].items()
            if role == "forget"
            or (role == "retain" and method != "GradAscent")
            or (role == "refusals" and method == "DPO")
        }
        with tempfile.TemporaryDirectory() as work:
            for number in range(1, settings["rounds"] + 1):
                out = Path(work) / f"model-{number}"
                quietly(
                    ["--quiet", "unlearn", str(model), "--method", method, "--out", str(out)]
                    + ["--round", str(number), "--seed", str(self.content["seeds"][0])]
                    + self.words({**data, **options})
                )
                model = out
            forget, retain = answer_probabilities(
                model, [read_rows(file) for file in measured], batch_size=32
            )
        return forget, retain

    def words(self, options: dict[str, Any]) -> list[str]:
        """Options as words of the command line."""
        words = []
        for name, value in options.items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                words.append(flag)
                continue
            for one in value if isinstance(value, list) else [value]:
                given = {
                    "{model}": self.folder / self.content["model"],
                    "{first_handoff}": self.folder / self.content["model"],
                }
                words += [flag, str(given.get(str(one), one))]
        return words


def quietly(words: list[str]) -> None:
    """Run a command of `mpu`; its message ends the program if it fails."""
    from mpu_cli.cli.app import run  # imports take seconds, and --help needs none

    heard = io.StringIO()
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        code = run(words)
    if code:
        sys.exit(heard.getvalue())


def main() -> None:
    """Search, and print each run and each choice."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("--method", nargs="+", help="only these (default: all of the plan)")
    parser.add_argument("--variant", help="with the options of this variant of the plan")
    asked = parser.parse_args()
    runs = Runs(asked.plan, asked.variant)
    known = runs.content["methods"]
    if unknown := set(asked.method or ()) - set(known):
        parser.error(f"{', '.join(unknown)}: the plan has {', '.join(known)}")
    for method in asked.method or known:

        def measure(rate: float, method: str = method) -> tuple[float, float]:
            forget, retain = runs.measure(method, rate)
            print(f"{method:11} {rate:.3g}  forget {forget:.3f}  retain {retain:.3f}", flush=True)
            return forget, retain

        own = place_of(float(runs.options(method)["learning_rate"]))
        place = search(own, measure)
        chosen = "no rate keeps the retained rows" if place is None else f"{rate_at(place):.3g}"
        differs = "" if place == own else "   (the plan has another)"
        print(f"{method:11} → {chosen}{differs}", flush=True)


if __name__ == "__main__":
    main()
