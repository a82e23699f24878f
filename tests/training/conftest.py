"""Fixtures for the tests of training.

One thread, so that timings and bits do not depend on the machine's load.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# By path, so that it works under each of pytest's import modes.
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny_models import make_model, make_tokenizer, save


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A plain tokenizer: no chat template, a pad token, no beginning-of-sequence token added."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A tiny untied Llama with random norms and biases, on disk."""
    return save(make_model(), tokenizer, tmp_path_factory.mktemp("models") / "llama")
