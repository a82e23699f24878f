"""A recipe's fingerprint: the same for the same recipe, another for any other."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer

from mpu_cli.cli.app import app
from mpu_cli.client.recipe import Recipe
from mpu_cli.client.settings import Lora
from mpu_cli.data.prompting import Prompting, parse_variables
from mpu_cli.errors import BadDataError
from mpu_cli.training.settings import TrainingSettings


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A recipe over two files."""
    (tmp_path / "forget.jsonl").write_text('{"text": "a"}')
    (tmp_path / "retain.jsonl").write_text('{"text": "b"}')
    parameters = {"gamma": 1.0, "alpha": 0.5, "retain_loss": "NLL"}
    return Recipe.of_files(
        "GradDiff",
        parameters,
        TrainingSettings(),
        tmp_path / "forget.jsonl",
        tmp_path / "retain.jsonl",
    )


def test_fingerprint_depends_on_everything(recipe: Recipe) -> None:
    """Every field of the recipe and of its settings changes the fingerprint."""
    changed: dict[str, Any] = {
        "epochs": 6,
        "learning_rate": 2e-5,
        "batch_size": 9,
        "gradient_accumulation": 2,
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "precision": "bfloat16",
        "device": "cpu",
        "seed": 1,
        "max_length": 100,
        "max_steps": 3,
        "keep_dropout": True,
        "lr_scheduler": "linear",
        "warmup_steps": 1,
        "warmup_ratio": 0.1,
        "group_by_length": True,
        "gradient_checkpointing": True,
        "stop_forget_below": 0.1,
        "stop_retain_below": 0.5,
        "fsdp": True,
        "overlap": 7,
        "pack": True,
        "decay_all": True,
        "partial_step": "share",
        "round_number": 1,
        "order_per_copy": True,
        "draws": "independent",
        "redraw_refusals": True,
        "train_embeddings": True,
        "join_texts": True,
        "smoothing": 0.01,
    }
    assert set(changed) == {field.name for field in fields(TrainingSettings)}
    others = [
        replace(recipe, settings=replace(recipe.settings, **{name: value}))
        for name, value in changed.items()
    ]
    others += [
        replace(recipe, method="NPO"),
        replace(recipe, parameters=recipe.parameters[1:]),
        replace(recipe, forget_digest="0" * 64),
        replace(recipe, retain_digest=None),
        replace(recipe, refusals_digest="0" * 64),
        replace(recipe, cover_digest="0" * 64),
        replace(recipe, unanswerable_digest="0" * 64),
        replace(recipe, mapping=(("answer", "output"),)),
        replace(recipe, tokens_digest="0" * 64),
        replace(recipe, prompting=Prompting("You are a teacher.")),
        replace(recipe, prompting=Prompting(variables=parse_variables(["a=1"]))),
        replace(recipe, prompting=Prompting(variables=parse_variables(['a="1"']))),
        replace(recipe, prompting=Prompting(date="2024-07-27")),
        replace(recipe, prompting=Prompting(content_parts=True)),
        replace(recipe, reference="0" * 64),
    ]
    prints = {each.fingerprint() for each in [recipe, *others]}
    assert len(prints) == len(others) + 1
    assert all(len(each) == 64 for each in prints)


def test_fingerprint_is_of_content(recipe: Recipe, tmp_path: Path) -> None:
    """The order of parameters and the files' names and places do not matter; their bytes do."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "f.jsonl").write_text('{"text": "a"}')
    (other / "r.jsonl").write_text('{"text": "b"}')
    parameters = {"retain_loss": "NLL", "alpha": 0.5, "gamma": 1.0}
    again = Recipe.of_files(
        "GradDiff", parameters, TrainingSettings(), other / "f.jsonl", other / "r.jsonl"
    )
    assert again == recipe
    assert again.fingerprint() == recipe.fingerprint()
    (other / "r.jsonl").write_text('{"text": "b"}\n')
    changed = Recipe.of_files(
        "GradDiff", parameters, TrainingSettings(), other / "f.jsonl", other / "r.jsonl"
    )
    assert changed.fingerprint() != recipe.fingerprint()


def test_fingerprint_is_pinned() -> None:
    """The fingerprint is stored on disk between runs, so it must not change by accident."""
    recipe = Recipe(
        "GradAscent", (("gamma", 1.0),), TrainingSettings(optimizer="adamw"), "0" * 64, None
    )
    assert (
        recipe.fingerprint() == "678530732fe9db66618508b22a2210e420f0f2ec6dd724beb5f3ef1a1d0dd4a7"
    )


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is bad data, named."""
    with pytest.raises(BadDataError, match=r"nothing\.jsonl"):
        Recipe.of_files("GradAscent", {}, TrainingSettings(), tmp_path / "nothing.jsonl", None)


def test_every_field_of_a_recipe_has_a_name_of_its_own_for_the_user(recipe: Recipe) -> None:
    """What --resume compares is the whole recipe, and every option that it names exists."""
    recipe = replace(recipe, lora=Lora(8), prompting=Prompting(system="x"))
    parts = (recipe.settings, recipe.lora, recipe.prompting)
    words = recipe.in_words()
    assert len(words) == len(fields(recipe)) - 4 + len(recipe.parameters) + sum(
        len(fields(part)) for part in parts
    )
    known = {
        option
        for parameter in typer.main.get_command(app).get_command(None, "unlearn").params
        for option in parameter.opts
    }
    assert {word.split()[0] for word in words if word.startswith("--")} <= known
