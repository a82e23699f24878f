"""The plans of examples/paper-table: cells, the authors' settings, and how rates are chosen."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from mpu_cli.cli.parse_only import commands
from mpu_cli.client.preset import ROUNDS_AND_EPOCHS
from mpu_cli.errors import BadInputError
from mpu_cli.experiment.graph import build
from mpu_cli.experiment.plan.cells import cells
from mpu_cli.experiment.plan.read import read_plan

EXAMPLE = Path(__file__).parents[2] / "examples" / "paper-table"
COMMANDS = commands()


def plan(name):
    """One of the plans, read."""
    return read_plan(EXAMPLE / f"{name}.yaml", COMMANDS)


@pytest.mark.parametrize("name", ["paper", "ours"])
def test_the_main_table_has_the_authors_rounds_and_epochs(name):
    """Eight methods × κ × m × five seeds, and γ = α = 1."""
    found = {
        (cell.method, cell.value("perturb", "kappa"), cell.value("perturb", "copies")): cell
        for cell in cells(plan(name))
    }
    assert set(found) == {
        (method, kappa, copies)
        for method in ROUNDS_AND_EPOCHS
        for kappa in (0.01, 0.1)
        for copies in (1, 2, 3)
    }
    for (method, *_), cell in found.items():
        assert (cell.rounds, cell.value("unlearn", "epochs")) == ROUNDS_AND_EPOCHS[method]
        assert len(cell.seeds) == 5
        assert cell.draws == 1
    weights = {cell.method: cell.value("unlearn", "set") for cell in found.values()}
    assert {method for method, given in weights.items() if given} == {"UnDIAL", "SimNPO", "SatImp"}


def test_both_tables_differ_in_what_they_say():
    """Optimizer with its decay and rates, denoising, reparameterization and reference."""
    paper, ours = ({cell.method: cell for cell in cells(plan(name))} for name in ("paper", "ours"))
    for method, cell in paper.items():
        other = ours[method]
        for section in ("perturb", "unlearn"):
            different = {
                name
                for name in {*cell.given(section), *other.given(section)}
                if cell.value(section, name) != other.value(section, name)
            }
            assert different <= (
                {"denoising", "reparam", "copies", "kappa"}
                if section == "perturb"
                else {"optimizer", "weight_decay", "decay_all", "learning_rate", "reference"}
            )


@pytest.mark.parametrize(("name", "noisy", "free"), [("side", 160, 20), ("denoising", 405, 15)])
def test_a_side_study_is_a_valid_plan(name, noisy, free):
    """Every command line is accepted by its command."""
    kinds = [run.kind for run in build(plan(name), COMMANDS).runs]
    assert (kinds.count("mpu"), kinds.count("noise-free")) == (noisy, free)


def test_the_plan_of_a_real_model_is_valid_up_to_its_files():
    """κ and the offset go together; the model is not in the repository."""
    real = plan("smollm2")
    assert {
        (cell.value("perturb", "kappa"), cell.value("perturb", "offset")) for cell in cells(real)
    } == {(0.1, 0.1), (1.0, 1.0)}
    if not (EXAMPLE / "work" / "smollm2").exists():
        with pytest.raises(BadInputError, match="smollm2"):
            build(real, COMMANDS)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ((), "MODEL='': no"),
        (("MODEL=nowhere",), "MODEL='nowhere': no"),
    ],
)
def test_the_real_model_must_be_given(tmp_path, variables, told):
    """One line that names the variable and says how to make it."""
    (tmp_path / "Makefile").write_text((EXAMPLE / "Makefile").read_text(), encoding="utf-8")
    command = ["make", "-C", tmp_path, *variables, "smollm2"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert told in done.stderr
    assert "make -C ../tofu-smollm2 model" in done.stderr
    assert not (tmp_path / "work").exists()


def rates():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("paper_rates", EXAMPLE / "rates.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("forgets_from", "keeps_up_to", "start", "chosen"),
    [
        (1.6e-4, 1.0, 1e-4, 1.6e-4),  # climbs to the lowest rate that forgets
        (1.6e-4, 1.0, 5e-4, 1.6e-4),  # or falls to it
        (1.6e-4, 1.25e-4, 1e-4, 1.25e-4),  # the highest rate that keeps the retained rows
        (1.6e-4, 1.25e-4, 5e-4, 1.25e-4),
        (1.6e-4, 1e-9, 1e-4, None),  # no rate keeps them
    ],
)
def test_the_rule_of_the_rates(forgets_from, keeps_up_to, start, chosen):
    """Each rate is run once; all are on the ladder."""
    script, tried = rates(), []

    def measure(rate):
        tried.append(rate)
        return (0.4 if rate >= forgets_from else 0.7), (0.9 if rate <= keeps_up_to else 0.5)

    place = script.search(script.place_of(start), measure)
    assert (None if place is None else script.rate_at(place)) == chosen
    assert len(set(tried)) == len(tried)


def test_the_plans_rates_are_on_the_ladder():
    """So that `make rates` can start from them."""
    script = rates()
    for name in ("paper", "ours", "side", "denoising"):
        for cell in cells(plan(name)):
            assert script.place_of(float(cell.value("unlearn", "learning_rate"))) > 0


def test_a_method_that_the_plan_does_not_have_is_named():
    """With those that it has."""
    command = [sys.executable, EXAMPLE / "rates.py", EXAMPLE / "paper.yaml", "--method", "RMU"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert "RMU: the plan has GradAscent" in done.stderr
