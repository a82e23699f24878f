"""Bad plans: one line that names file, line and key, before anything runs."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
import yaml
from plans import COMMANDS, built, small, written

from mpu_cli.errors import BadInputError, MpuError, UsageError
from mpu_cli.experiment.plan.document import MAX_BYTES, parse_document
from mpu_cli.experiment.plan.read import read_plan


def refused(directory: Path, content: dict | str) -> MpuError:
    """The error of a plan."""
    with pytest.raises(MpuError) as caught:
        built(directory, content)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("changes", "where", "what", "hint"),
    [
        ({"seed": [1]}, "seed", "unknown key", "seeds"),
        ({"unlearn": {"learning_rat": 1}}, "unlearn.learning_rat", "unknown", "learning_rate"),
        ({"perturb": {"epochs": 1}}, "perturb.epochs", "unknown option", "option of unlearn"),
        ({"unlearn": {"seed": 1}}, "unlearn.seed", "sets this option itself", "seeds:"),
        ({"methods": {"NPOO": {}}}, "methods.NPOO", "unknown method", "NPO"),
        ({"methods": {"NPO": {"round": 2}}}, "methods.NPO.round", "unknown key", "rounds"),
        ({"variants": {"a": {"grid": 1}}}, "variants.a.grid", "unknown key", "known"),
        ({"grid": {"method": "GradDif"}}, "grid.method", "unknown method GradDif", "GradDiff"),
        ({"grid": {"method": "NPO", "kapa": 1}}, "grid.kapa", "unknown axis", "kappa"),
        ({"grid": {"kappa": [1]}}, "grid", "axis method is missing", "method:"),
        ({"grid": {"method": "NPO", "data": "x"}}, "grid.data", "unknown data x", "data"),
        ({"grid": {"method": "NPO", "variant": "x"}}, "grid.variant", "unknown variant", "none"),
        (
            {"grid": {"method": "NPO", "dtype": "float32"}},
            "grid.dtype",
            "both have",
            "perturb.dtype",
        ),
        ({"grid": {"method": "NPO", "kappa": [0.1, 0.1]}}, "grid.kappa", "occurs twice", None),
        ({"grid": {"method": "NPO", "kappa": []}}, "grid.kappa", "without values", None),
        ({"grid": {"method": ["NPO", "npo"]}}, "grid.method", "occurs twice", None),
        ({"also": {"method": "NPO"}}, "also", "a list of grids", None),
        ({"also": [{"method": "NPO", "epocs": 1}]}, "also[1].epocs", "unknown axis", "epochs"),
        ({"seeds": [1, 1]}, "seeds", "different seeds", "seeds:"),
        ({"seeds": [-1]}, "seeds", "from 0", None),
        ({"draws": 0}, "draws", "from 1", None),
        ({"rounds": "two"}, "rounds", "whole number", None),
        ({"rounds": True}, "rounds", "whole number", None),
        ({"baseline": 1}, "baseline", "true or false", None),
        ({"data": {"forgt": "x"}}, "data.forgt", "unknown key", "forget"),
        ({"data": {"a": {"retain": "x"}}}, "data.a", "no rows to forget", "forget:"),
        ({"data": {"forget": "x", "keep": "y"}}, "data.keep", "unknown key", "known"),
        ({"resources": {"unlern": {}}}, "resources.unlern", "unknown key", "unlearn"),
        ({"resources": {"eval": {"gpus": -1}}}, "resources.eval.gpus", "whole number", None),
        ({"perturb": {"split": "yes"}}, "perturb.split", "true or false", None),
        ({"perturb": {"kappa": True}}, "perturb.kappa", "expected a value, not true", None),
        ({"unlearn": {"epochs": False}}, "unlearn.epochs", "expected a value, not false", None),
        ({"grid": {"method": "NPO", "kappa": ["yes"]}}, "grid.kappa[1]", "--kappa yes", None),
        ({"seeds": [True]}, "seeds", "expected a whole number", None),
        ({"perturb": {"kappa": [0.1]}}, None, None, None),  # one number of a list is that number
        ({"grid": {"method": "NPO", "copies": 10**9}}, "grid.copies", "from 1 to 1000", None),
        ({"perturb": {"denoising": "none"}}, "perturb.denoising", "--denoising none", None),
        ({"unlearn": {"optimizer": "adamm"}}, "unlearn.optimizer", "adamm", "adam"),
        ({"unlearn": {"set": ["gama=1"]}}, "unlearn.set", "gama", "gamma"),
        ({"perturb": {"alphas": [1, 2, 3]}}, "perturb.alphas", "3 values for 2 copies", None),
        ({"unlearn": {"decay_all": True}}, "unlearn.decay_all", "nothing decays", "weight-decay"),
        (
            {"unlearn": {"reference": "{theta}"}, "grid": {"method": "NPO"}},
            "unlearn.reference",
            "placeholder {theta}",
            "{model}",
        ),
        ({"eval": {"resamples": 10}}, "eval.resamples", "--resamples 10", None),
        ({"audit": {"layer": 1}}, "audit.layer", "unknown option", "layers"),
        ({"aggregate": {"server_lr": 0}}, "aggregate.server_lr", "--server-lr 0", None),
    ],
)
def test_a_mistake_is_named(tmp_path, changes, where, what, hint):
    """File, line and key, and what to write instead."""
    if where is None:
        built(tmp_path, small(**changes))
        return
    error = refused(tmp_path, small(**changes))
    assert isinstance(error, UsageError)
    place = error.message.split(": ")
    assert place[0].startswith(f"{tmp_path / 'plan.yaml'}:")
    assert place[1] == where
    assert what in error.message
    assert hint is None or hint in (error.hint or "")


def test_the_line_is_the_mistakes_own(tmp_path):
    """The line of the value, not of the map around it."""
    text = yaml.safe_dump(small(perturb={"kappa": 0.1, "offset": -1}), sort_keys=False)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if "offset: -1" in row)
    assert f"plan.yaml:{line}: perturb.offset: " in refused(tmp_path, text).message


@pytest.mark.parametrize("key", ["model", "data", "grid"])
def test_what_every_plan_needs(tmp_path, key):
    """A missing key is named."""
    assert f"{key} is missing" in refused(tmp_path, small(**{key: None})).message


@pytest.mark.parametrize("key", ["grid", "data", "perturb", "methods", "variants", "resources"])
@pytest.mark.parametrize("value", [3, "text", [1]])
def test_another_kind_of_value_is_no_crash(tmp_path, key, value):
    """Wherever a map belongs."""
    error = refused(tmp_path, small(**{key: value}))
    assert isinstance(error, UsageError)
    assert key in error.message


def test_a_method_without_its_rows(tmp_path):
    """Retain rows and alternate answers are looked for before the first step."""
    forget = small()["data"]["forget"]
    error = refused(tmp_path, small(data={"forget": forget}))
    assert "GradDiff needs a retain set" in error.message
    built(tmp_path, small(data={"forget": forget}, grid={"method": "GradAscent"}))
    error = refused(tmp_path, small(grid={"method": "DPO"}))
    assert "alternate answer" in error.message
    assert "refusals" in error.hint


def test_missing_files_and_models_come_last(tmp_path):
    """A mistake in the plan is said before a file is opened; then exit 3, and the path is named."""
    gone = str(tmp_path / "gone")
    both = small(model=gone, perturb={"kapa": 1})
    assert "kapa" in refused(tmp_path, both).message
    for changes in ({"model": gone}, {"base": gone}, {"retain_model": gone}):
        error = refused(tmp_path, small(**changes))
        assert isinstance(error, BadInputError)
        (key,) = changes
        line = yaml.safe_dump(small(**changes), sort_keys=False).split(f"{key}:")[0].count("\n") + 1
        assert f"plan.yaml:{line}: {key}: " in error.message
        assert gone in error.message
    error = refused(tmp_path, small(data={"forget": small()["data"]["forget"], "retain": gone}))
    assert isinstance(error, BadInputError)
    assert f"plan.yaml:5: data.retain: {gone}" in error.message


def test_what_no_run_uses_is_said(tmp_path):
    """A method, a variant, a method of a variant, a data split: each with its line."""

    def quick() -> dict:
        return {"unlearn": {"learning_rate": 1e-3}}

    plan = small(
        methods={"graddiff": quick(), "NPO": quick()},
        variants={"slow": {"methods": {"NPO": quick(), "GradDiff": quick()}}, "quick": quick()},
        data={name: small()["data"] for name in ("a", "b")},
    )
    plan["grid"] |= {"variant": ["slow"], "data": ["a"]}
    said = [text.removeprefix(f"{tmp_path}/") for text in built(tmp_path, plan).warnings]
    assert [text.split(": ")[1] for text in said] == [
        "methods.NPO",
        "variants.slow.methods.NPO",
        "variants.quick",
        "data.b",
    ]
    assert all(re.match(r"plan\.yaml:[0-9]+: ", text) for text in said)
    assert built(tmp_path, small(methods={"graddiff": quick()})).warnings == ()


def test_relative_paths_are_relative_to_the_plan(tmp_path, monkeypatch):
    """Wherever the command is started."""
    (tmp_path / "rows").symlink_to(Path(small()["data"]["forget"]).parent)
    data = {role: f"rows/{role}.jsonl" for role in ("forget", "retain")}
    monkeypatch.chdir("/")
    built(tmp_path, small(model="rows/model", base="rows/base", data=data))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "empty"),
        ("- a\n", "expected a map"),
        ("a: [1\n", "not valid YAML"),
        ("a: &x 1\nb: *x\n", "anchor"),
        ("a: !!python/object:os.system {}\n", "tag"),
        ("a: !!str 1\n", "tag"),
        ("a: 1\na: 2\n", "second time"),
        ("a: 1\n---\nb: 2\n", "second document"),
        ("? [a]\n: 1\n", "no plain text"),
        ("a: " + "[" * 100 + "]" * 100, "levels"),
        ("a: " + "[" * 300_000, "nesting|levels"),
        ("x" * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_yaml_that_is_no_plan(tmp_path, text, what):
    """Refused by name, in bounded time."""
    began = time.perf_counter()
    with pytest.raises(UsageError, match=what):
        read_plan(written(tmp_path, text), COMMANDS)
    assert time.perf_counter() - began < 5


def test_a_pipe_is_no_plan(tmp_path):
    """Reading one would wait for ever."""
    os.mkfifo(tmp_path / "plan.yaml")
    with pytest.raises(UsageError, match="not a regular file"):
        read_plan(tmp_path / "plan.yaml", COMMANDS)


def test_bytes_that_are_no_text(tmp_path):
    """Not UTF-8, or no file at all."""
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_plan(path, COMMANDS)
    with pytest.raises(UsageError, match="no such file"):
        read_plan(tmp_path / "none.yaml", COMMANDS)


def test_scalars_are_those_of_yaml_1_2():
    """A rate written as 1e-4 is a number, a date a text, and no is a word."""
    text = b"a: 1e-4\nb: no\nc: 2024-07-26\nd: 1:30\ne: '1'\nf: .5\ng: ~\nh: True\ni: 0x1F\n"
    assert parse_document(text, "plan").content == {
        "a": 1e-4,
        "b": "no",
        "c": "2024-07-26",
        "d": "1:30",
        "e": "1",
        "f": 0.5,
        "g": None,
        "h": True,
        "i": "0x1F",
    }


def test_the_number_of_runs_and_steps_is_bounded(tmp_path):
    """Said at once, without counting them one by one."""
    grid = {
        "method": "GradDiff",
        "kappa": [n / 1000 for n in range(1, 300)],
        "seeds": list(range(99)),
    }
    assert "runs; the limit is 20,000" in refused(tmp_path, small(grid=grid)).message
    grid = {"method": "GradDiff", "rounds": 300, "seeds": list(range(40))}
    assert "more than 20,000 steps" in refused(tmp_path, small(grid=grid)).message


@pytest.mark.parametrize("key", ["variants", "data"])
def test_names_fit_into_results(tmp_path, key):
    """A line break in a name would end a line of a table."""
    changes = {
        "variants": {"variants": {"a\nb": {}}},
        "data": {"data": {"a b": small()["data"]}},
    }[key]
    assert "expected a name" in refused(tmp_path, small(**changes)).message
