"""Tiny models of several kinds with the tiny tokenizer beside them, and the demo's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import mpu_cli.demo

ASSETS = Path(mpu_cli.demo.__file__).parent / "assets"


@pytest.fixture(scope="session")
def tiny_model(built_tiny, tiny_pair, tmp_path_factory) -> Callable[[str], Path]:
    """`tiny_model(family)`: a model directory with a tokenizer; read-only."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = Path(
                shutil.copytree(built_tiny(family), tmp_path_factory.mktemp("known") / family)
            )
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(tiny_pair("llama").model / name, made[family])
        return made[family]

    return make


@pytest.fixture(scope="session")
def demo() -> Path:
    """The demo's directory: model, base, forget.jsonl, retain.jsonl, holdout.jsonl."""
    return ASSETS
