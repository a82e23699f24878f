"""From a plan to its graph: which steps and runs there are, and what their keys depend on."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plans import built, small

from mpu_cli.experiment.step import Result, Step

OFTEN = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def keys(experiment) -> dict[str, str]:
    """The key of each step by its name."""
    return experiment.graph.keys({"mpu": "1"})


def kinds(experiment) -> dict[str, int]:
    """The number of steps of each kind."""
    steps = [step.kind for step in experiment.graph.steps.values()]
    return {kind: steps.count(kind) for kind in sorted(set(steps))}


def behind(experiment, changed: set[str]) -> set[str]:
    """These steps and all that depend on them."""
    steps, found = experiment.graph.steps, set(changed)
    while more := {name for name, step in steps.items() if step.needs() & found} - found:
        found |= more
    return found


def test_one_cell_is_one_round_and_its_baseline(tmp_path):
    """The smallest plan: every step once, and three runs."""
    experiment = built(tmp_path, small())
    assert kinds(experiment) == {
        "aggregate": 1,
        "error": 1,
        "eval": 3,
        "perturb": 1,
        "unlearn": 2,
    }
    assert [run.kind for run in experiment.runs] == ["before", "noise-free", "mpu"]
    mpu = experiment.runs[-1]
    assert mpu.name == "GradDiff kappa=0.1 copies=2 seed=1"
    assert mpu.settings == {
        "kappa": 0.1,
        "copies": 2,
        "offset": 0.0,
        "denoising": "harmonic",
        "reparam": "signed-permutation",
        "optimizer": "adamw",
    }
    assert mpu.baseline == experiment.runs[1].name


def test_methods_share_the_first_handoff_and_noise_shares_the_baseline(tmp_path):
    """Equal steps of different cells are one step."""
    grid = {"method": ["GradDiff", "GradAscent", "WGA"], "kappa": [0.01, 0.1], "copies": [1, 2]}
    counted = kinds(built(tmp_path, small(grid=grid, seeds=[1, 2])))
    assert counted["perturb"] == 2 * 2 * 2  # κ, m, seed
    assert counted["unlearn"] == 3 * 2 + 3 * 2 * 2 * 2  # noise-free, and each cell and seed
    assert counted["error"] == 3 * 2 + 3 * 2 * 2 * 2


def test_rounds_continue_model_and_secret(tmp_path):
    """Round 2 perturbs what round 1 aggregated, with round 1's secret, and another draw."""
    experiment = built(tmp_path, small(rounds=2))
    steps = list(experiment.graph.steps.values())
    first, second = (step for step in steps if step.kind == "perturb")
    aggregate = next(step for step in steps if step.kind == "aggregate")
    assert Result(aggregate.name, "server/model") in second.words
    assert second.copied == {"server/secret": Result(aggregate.name, "server/secret")}
    assert "--new-lineage" in first.words and "--secret" in second.words
    assert first.draw != second.draw
    assert len(experiment.runs[-1].rounds) == 2


def test_split_makes_one_update_for_each_holder(tmp_path):
    """Every holder trains on its own handoff, and one call aggregates all updates."""
    experiment = built(tmp_path, small(perturb={"split": True}))
    steps = list(experiment.graph.steps.values())
    handoffs = [
        word.path
        for step in steps
        for word in step.words
        if step.kind == "unlearn" and isinstance(word, Result)
    ]
    assert handoffs == ["handoff/holder-1", "handoff/holder-2"]
    aggregate = next(step for step in steps if step.kind == "aggregate")
    assert sum(isinstance(word, Result) and word.path == "update" for word in aggregate.words) == 2


def test_the_client_gets_no_path_of_the_server(tmp_path):
    """A client's step reads the handoff and nothing else that a server's step wrote."""
    grid = {"method": ["GradDiff", "NPO"], "rounds": [2]}
    unlearn = {"reference": "{first_handoff}"}
    steps = built(tmp_path, small(grid=grid, unlearn=unlearn)).graph.steps
    read = {
        result.path
        for step in steps.values()
        for result in step.inputs()
        if step.party == "client" and steps[result.step].party == "server"
    }
    assert read == {"handoff"}


def test_layers_win_in_their_order(tmp_path):
    """Plan < method < variant < method in the variant < axis."""
    variants = {
        "a": {"unlearn": {"epochs": 4}, "methods": {"WGA": {"unlearn": {"epochs": 5}}}},
        "b": {},
    }
    content = small(
        unlearn={"epochs": 2, "optimizer": "adamw"},
        methods={"WGA": {"unlearn": {"epochs": 3}}},
        variants=variants,
        grid={"method": ["GradDiff", "WGA"], "variant": ["a", "b"]},
    )
    experiment = built(tmp_path, content)

    def epochs(method: str, variant: str) -> str:
        name = f"{method} variant={variant} seed=1 noise-free"
        words = experiment.graph.steps[f"{name} / round 1 / unlearn"].words
        return words[words.index("--epochs") + 1]

    assert [epochs(m, v) for m in ("GradDiff", "WGA") for v in "ab"] == ["4", "2", "5", "3"]


def test_one_copy_is_added_to_every_noise(tmp_path):
    """One copy with harmonic denoising stands beside every cell, also beside extrapolation."""
    grid = {"method": ["GradDiff"], "denoising": ["harmonic", "extrapolation"], "kappa": [0.1, 1]}
    runs = built(tmp_path, small(grid=grid, one_copy=True, perturb={"copies": 3})).runs
    single = [run.settings for run in runs if run.settings.get("copies") == 1]
    assert [(one["kappa"], one["denoising"]) for one in single] == [
        (0.1, "harmonic"),
        (1.0, "harmonic"),
    ]


def test_a_retained_model_is_measured_and_compared_with(tmp_path):
    """Its record goes into every other evaluation of the split."""
    model = small()["base"]
    experiment = built(tmp_path, small(retain_model=model))
    assert [run.kind for run in experiment.runs[:2]] == ["before", "retain-model"]
    evals = [step for step in experiment.graph.steps.values() if step.kind == "eval"]
    assert sum("--retain-record" in step.words for step in evals) == len(evals) - 1


def test_an_audit_attacks_each_first_handoff_once(tmp_path):
    """All methods share the audit of their common handoff."""
    grid = {"method": ["GradDiff", "WGA"], "rounds": 2, "kappa": [0.1, 1]}
    experiment = built(tmp_path, small(grid=grid, audit={"layers": 1}))
    assert kinds(experiment)["audit"] == 2
    assert all(run.audit for run in experiment.runs if run.kind == "mpu")


@OFTEN
@given(
    methods=st.lists(
        st.sampled_from(["GradDiff", "GradAscent", "WGA", "SimNPO"]), min_size=1, unique=True
    ),
    kappas=st.lists(st.sampled_from([0, 0.01, 0.1, 1]), min_size=1, unique=True),
    copies=st.lists(st.integers(1, 4), min_size=1, unique=True),
    seeds=st.lists(st.integers(0, 9), min_size=1, unique=True),
    draws=st.integers(1, 3),
)
def test_the_grid_is_a_cross_product(tmp_path, methods, kappas, copies, seeds, draws):
    """One run for every combination, one noise-free run for every method and seed."""
    grid = {"method": methods, "kappa": kappas, "copies": copies}
    runs = built(tmp_path, small(grid=grid, seeds=seeds, draws=draws)).runs
    counted = [run.kind for run in runs]
    assert counted.count("mpu") == len(methods) * len(kappas) * len(copies) * len(seeds) * draws
    assert counted.count("noise-free") == len(methods) * len(seeds)
    assert len({run.name for run in runs}) == len(runs)


@OFTEN
@given(order=st.permutations(["perturb", "unlearn", "aggregate", "grid", "seeds", "data"]))
def test_equal_plans_have_equal_keys(tmp_path, order):
    """The order of keys and the spelling of numbers change nothing."""
    one = small(
        perturb={"offset": 0.1, "kappa": 0.01},
        unlearn={"learning_rate": 1e-4, "epochs": 1},
        aggregate={"server_lr": 1},
        grid={"method": ["GradDiff"], "copies": [2]},
    )
    other = {key: one[key] for key in ("model", "base")} | {key: one[key] for key in order}
    other["perturb"] = {"kappa": "1.0e-2", "offset": 0.10}
    other["unlearn"] = {"epochs": 1, "learning-rate": "0.0001"}
    other["aggregate"] = {"server_lr": 1.0}
    assert sorted(keys(built(tmp_path, one)).values()) == sorted(
        keys(built(tmp_path, other)).values()
    )


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [
        ("perturb", "kappa", 0.2),
        ("perturb", "reparam", "rotation"),
        ("unlearn", "epochs", 3),
        ("unlearn", "set", ["gamma=2"]),
        ("aggregate", "server_lr", 0.5),
        ("eval", "seed", 3),
    ],
)
def test_a_changed_option_changes_the_steps_behind_it(tmp_path, section, option, value):
    """Exactly the steps of the section and those that depend on them get another key."""
    base = small(
        rounds=2,
        grid={"method": ["GradDiff"]},
        eval={"metric": ["answer_probability"], "generate": False},
    )
    changed = {**base, section: {**base.get(section, {}), option: value}}
    before, after = built(tmp_path, base), built(tmp_path, changed)
    assert before.graph.steps.keys() == after.graph.steps.keys()
    old, new = keys(before), keys(after)
    of_section = {name for name, step in before.graph.steps.items() if _is_of(step, section)}
    assert {name for name in old if old[name] != new[name]} == behind(before, of_section)


def _is_of(step: Step, section: str) -> bool:
    return step.kind == section


def test_a_side_study_shares_steps_and_has_its_own_seeds(tmp_path):
    """A further grid adds only what is not there yet."""
    alone = built(tmp_path, small(seeds=[1, 2]))
    also = [{"method": "GradDiff", "kappa": 0.1, "copies": [2, 3], "seeds": 1}]
    both = built(tmp_path, small(seeds=[1, 2], also=also))
    assert len(both.runs) == len(alone.runs) + 1
    assert set(keys(alone).values()) < set(keys(both).values())


def test_a_noise_free_run_is_compared_with_the_next_seeds(tmp_path):
    """What another order of the rows changes; the last seed's next one is the first."""
    experiment = built(tmp_path, small(seeds=[3, 4, 5]))
    found = {run.seed: run for run in experiment.runs if run.kind == "noise-free"}
    for seed, following in ((3, 4), (4, 5), (5, 3)):
        step = experiment.graph.steps[found[seed].rounds[-1].error]
        _, own, other = step.words
        assert f"seed={seed} " in own.step
        assert f"seed={following} " in other.step
    alone = [run for run in built(tmp_path, small()).runs if run.kind == "noise-free"]
    assert [run.rounds[-1].error for run in alone] == [None]


def test_refusals_go_to_the_methods_that_use_them(tmp_path):
    """`mpu unlearn` refuses them with any other method."""
    refusals = tmp_path / "refusals.txt"
    refusals.write_text("I do not know.\n", encoding="utf-8")
    content = small(grid={"method": ["GradDiff", "DPO"], "kappa": 0.1, "copies": 2})
    content["data"]["refusals"] = str(refusals)
    steps = built(tmp_path, content).graph.steps.values()
    for step in (step for step in steps if step.kind == "unlearn"):
        assert ("--refusals" in step.words) == ("DPO" in step.words)


def test_unanswerable_questions_go_to_lunar(tmp_path):
    """`mpu unlearn` refuses them with any other method."""
    content = small(grid={"method": ["GradDiff", "LUNAR"], "kappa": 0.1, "copies": 2})
    content["data"]["unanswerable"] = content["data"]["retain"]
    steps = built(tmp_path, content).graph.steps.values()
    for step in (step for step in steps if step.kind == "unlearn"):
        assert ("--unanswerable" in step.words) == ("LUNAR" in step.words)
