"""Fixtures for all tests: tiny real models of every family, on disk, with a base beside each.

* `tiny_pair(family="llama", *, dtype="float32", seed=0, **config)` → `Pair(model, base, family)`:
  two directories written by `save_pretrained` with a 64-word tokenizer beside each, built once per
  session. Tests must not change them; copy them first. Hidden size 32, 2 layers, 4 query and 2
  key-value heads, vocabulary 64; `config` overrides any key of the family's configuration.
* `family_pair`: the same, once for every family of `FAMILIES`.
* `built_tiny(name)` → the directory of a tiny model of any family file, `family` or
  `family/variant`, built once.
* `model_directory`, `tokenizer`: a tiny Llama of `tiny_models` on disk, and its tokenizer.
* `entropy(number)` → a `PreparedEntropy`, so that no test draws random secrets.

Norms, q/k-norms and biases are random: with the defaults (ones and zeros) a transform that ignores
them would pass. The base is the model minus a random task vector of 15 % of each decoder layer's
RMS; embeddings, final norm and head are the same in both.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For the commands that tests start: two workers with two threads each would compete for two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nowhere: tests restore and copy secrets as they like (server/lineage/last_seen.py).
os.environ["XDG_STATE_HOME"] = os.devnull

import pytest
import torch

FAMILIES = ("llama", "llama-tied", "llama-biased", "mistral", "qwen2", "qwen3")
TASK_SHARE = 0.15
_SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied": {"tie_word_embeddings": True},
    "llama-biased": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 16},  # H·d = 64 ≠ D = 32
}


@dataclass(frozen=True)
class Pair:
    """The directories of a model and of its base."""

    model: Path
    base: Path
    family: str


@pytest.fixture(scope="module", autouse=True)
def short_garbage_collections() -> None:
    """Leave what is loaded by now out of later collections: accelerate asks for one per training.

    One takes a second where nine thousand tests are loaded.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Run torch on one thread: bits and timings do not depend on the machine's load."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    """See the top of this file."""
    made: dict[str, Pair] = {}

    def make(
        family: str = "llama", *, dtype: str = "float32", seed: int = 0, **config: Any
    ) -> Pair:
        key = repr((family, dtype, seed, sorted(config.items())))
        if key not in made:
            directory = tmp_path_factory.mktemp(f"tiny-{family}")
            made[key] = _make_pair(directory, family, dtype, seed, config)
        return made[key]

    return make


@pytest.fixture(scope="session", params=FAMILIES)
def family_pair(request: pytest.FixtureRequest, tiny_pair: Callable[..., Pair]) -> Pair:
    """A pair of every family, one test each."""
    return tiny_pair(request.param)


@pytest.fixture(scope="session")
def built_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`built_tiny(name)`: the directory of a family's tiny model (`tiny_families`), built once."""
    from tiny_families import tiny_models

    known = {tiny.name: tiny for tiny in tiny_models()}
    made: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in made:
            made[name] = known[name].build(tmp_path_factory.mktemp("tiny") / "model")
        return made[name]

    return build


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A plain tokenizer: no chat template, a pad token, no beginning-of-sequence token added."""
    from tiny_models import make_tokenizer

    return make_tokenizer()


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A tiny untied Llama with random norms and biases, on disk."""
    from tiny_models import make_model, save

    return save(make_model(), tokenizer, tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def entropy() -> Callable[[int], Any]:
    """`entropy(number)`: the same prepared master secret and ids in every run."""
    from mpu_cli.server.secrets.secret import PreparedEntropy

    return lambda number=0: PreparedEntropy(hashlib.sha256(f"mpu tests {number}".encode()).digest())


def _make_pair(directory: Path, family: str, dtype: str, seed: int, config: dict[str, Any]) -> Pair:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {**_SIZES, **_OWN[family], **config}
    built = AutoConfig.for_model(family.partition("-")[0], **settings)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(built, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif parameter.dim() == 1:
                parameter.copy_(0.1 * torch.randn_like(parameter))
            else:
                scale = 0.5 if "embed" in name else parameter.shape[1] ** -0.5
                parameter.copy_(scale * torch.randn_like(parameter))
        model.to(getattr(torch, dtype))
        _save(model, directory / "model")
        for layer in model.model.layers:
            weights = list(layer.parameters())
            square = sum(float(weight.double().square().sum()) for weight in weights)
            rms = (square / sum(weight.numel() for weight in weights)) ** 0.5
            for weight in weights:
                weight.sub_(TASK_SHARE * rms * torch.randn(weight.shape))
        _save(model, directory / "base")
    return Pair(directory / "model", directory / "base", family)


def _save(model: Any, directory: Path) -> None:
    model.save_pretrained(directory)
    _tokenizer().save_pretrained(directory)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "?", "."] + [f"w{number}" for number in range(59)]
    core = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
