"""Measure on tiny models of every family whether each transform keeps the function as expected.

`python -m tiny_families` prints docs/architectures.md (`make docs/architectures.md` writes it);
`python -m tiny_families NAME…` prints the rows of these families. The models are built from the
`tiny` configurations of the data files, with random norms and biases: the default initialisation
(ones and zeros) would hide mistakes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mpu_cli.architectures.family import Family, families
from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.modeling.hooks.loading import auto_class
from mpu_cli.modeling.tokenizer import quiet_transformers
from mpu_cli.server import transforms
from mpu_cli.server.transforms.choice import statuses
from mpu_cli.server.transforms.draw import draw_layer

VALID_ERROR = 1e-5
"""The largest max|Δlogit| / RMS(logit), in float64, of a valid transform."""
INVALID_ERROR = 1e-2
"""The smallest one of an invalid transform."""

_SIZES: Mapping[str, Any] = {
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
_MASTER = bytes(range(32))


@dataclass(frozen=True, slots=True)
class TinyModel:
    """One tiny configuration of a family."""

    family: Family
    variant: str

    @property
    def name(self) -> str:
        """`family` or `family/variant`."""
        return self.family.name if self.variant == "plain" else f"{self.family.name}/{self.variant}"

    def config(self) -> Any:
        """Transformers' configuration object."""
        from transformers import AutoConfig

        sizes = {} if self.family.config else {**_SIZES, **_under_their_keys(self.family)}
        return AutoConfig.for_model(
            self.family.model_types[0], **{**sizes, **self.family.tiny[self.variant]}
        )

    def build(self, directory: Path, seed: int = 0) -> Path:
        """Save a random model of this configuration as float32 safetensors."""
        with quiet_transformers(), torch.random.fork_rng(), torch.no_grad():
            config = self.config()
            torch.manual_seed(seed)
            model = auto_class(config).from_config(config, dtype=torch.float32)
            _randomise(model)
            model.save_pretrained(directory)
        return directory


def tiny_models(names: tuple[str, ...] = ()) -> Iterator[TinyModel]:
    """All tiny configurations of all families, or of those named."""
    files = {family.name: family for group in families().values() for family in group}
    for name in sorted(names or files):
        for variant in files[name].tiny:
            yield TinyModel(files[name], variant)


def _under_their_keys(family: Family) -> dict[str, Any]:
    standard = {
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
    }
    return {
        key: _SIZES[standard[name]]
        for name, key in family.sizes.items()
        if name in standard and isinstance(key, str)
    }


def _randomise(model: Any) -> None:
    state = [*model.named_parameters(), *model.named_buffers()]
    persistent = set(model.state_dict())
    for name, tensor in state:
        if name not in persistent or not tensor.is_floating_point():
            continue
        if "norm" in name.lower() or ".ln_" in name:
            centre = 0.0 if name.endswith("bias") else 1.0
            tensor.copy_(centre + 0.3 * torch.randn_like(tensor))
        elif tensor.dim() == 1 or name.endswith("bias"):
            tensor.copy_(0.5 * torch.randn_like(tensor))
        else:
            tensor.copy_(1.5 * tensor.shape[-1] ** -0.5 * torch.randn_like(tensor))


def logits(directory: Path) -> torch.Tensor:
    """A model's logits on fixed tokens, float64, (B, T, V)."""
    from transformers import AutoConfig

    with quiet_transformers(), torch.inference_mode():
        config = AutoConfig.from_pretrained(directory)
        loaded: Any = auto_class(config).from_pretrained(
            directory,
            dtype=torch.float64,
            attn_implementation="eager",
            experts_implementation="eager",
        )
        ids = torch.randint(2, 60, (2, 24), generator=torch.Generator().manual_seed(0))
        result: torch.Tensor = loaded.eval()(input_ids=ids).logits
    return result.double()


def transform_errors(directory: Path) -> dict[str, float | None]:
    """max|Δlogit| / RMS(logit), in float64, of each transform; None where it moves nothing."""
    layout = _layout(directory)
    weights = load_file(directory / "model.safetensors")
    expected = logits(directory)
    scale = float(expected.square().mean().sqrt())
    errors: dict[str, float | None] = {}
    for name in transforms.names():
        moved = transformed(weights, layout, (name,))
        if all(torch.equal(weights[key], moved[key]) for key in weights):
            errors[name] = None
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_bytes((directory / "config.json").read_bytes())
            save_file(moved, Path(folder) / "model.safetensors", {"format": "pt"})
            errors[name] = float((logits(Path(folder)) - expected).abs().max()) / scale
    return errors


def _layout(directory: Path) -> ModelLayout:
    checkpoint = open_checkpoint(directory)
    return read_layout(checkpoint.config, shapes(checkpoint.tensors), directory)


def transformed(
    weights: Mapping[str, torch.Tensor],
    layout: ModelLayout,
    names: tuple[str, ...],
    position: int = 0,
) -> dict[str, torch.Tensor]:
    """T of a whole model in memory."""
    result = dict(weights)
    for layer in layout.layers:
        steps = draw_layer(names, layer, _MASTER, "family", position)
        for tensor in layer.noised:
            result[steps.target(tensor)] = steps.apply(tensor, weights[tensor]).contiguous()
    return result


def rows(names: tuple[str, ...] = ()) -> Iterator[str]:
    """A Markdown row for each tiny model: what is expected of each transform, and its error."""
    yield (
        "| family | model_type | "
        + " | ".join(name.replace("_", " ") for name in transforms.names())
        + " |"
    )
    yield "|---" * (len(transforms.names()) + 2) + "|"
    for tiny in tiny_models(names):
        with tempfile.TemporaryDirectory() as folder:
            directory = tiny.build(Path(folder))
            status = statuses(_layout(directory))
            errors = transform_errors(directory)
        cells = [_cell(status[name].kind, errors[name]) for name in transforms.names()]
        yield f"| {tiny.name} | {', '.join(tiny.family.model_types)} | " + " | ".join(cells) + " |"


def page() -> str:
    """docs/architectures.md."""
    from importlib.metadata import version

    table = list(rows())
    files = {tiny.family.name for tiny in tiny_models()}
    types = {model_type for tiny in tiny_models() for model_type in tiny.family.model_types}
    wrong = sum("WRONG" in row for row in table)
    return (
        f"""# Architectures

`make docs/architectures.md` writes this page; do not edit it. Measured with torch
{version("torch")} and transformers {version("transformers")}.

{len(files)} family files describe {len(types)} model types. {len(table) - 2} tiny configurations
have random norms and biases; {wrong} measurements contradict the facts that a file states. A number
is max|Δlogit| / RMS(logit) in float64 after the transform alone was applied to the tensors on disk.
✓ means that the transform keeps the function (at most {VALID_ERROR:.0e}), ✗ that it changes it
(more than {INVALID_ERROR:.0e}), and – that it has nothing to act on. 0 is bit-equal.
[Add an architecture](how-to/add-an-architecture.md) shows how to add a family;
`mpu inspect MODEL` shows how mpu reads a model of yours.

"""
        + "\n".join(table)
        + "\n"
    )


def agrees(kind: str, error: float | None) -> bool:
    """Whether a measured error (None: nothing moved) is what a transform's status promises."""
    if error is None:
        return kind == "none"
    return {"valid": error <= VALID_ERROR, "invalid": error > INVALID_ERROR, "none": False}[kind]


def _cell(kind: str, error: float | None) -> str:
    sign = {"valid": "✓", "invalid": "✗", "none": "–"}[kind]
    text = sign if error is None else f"{sign} {error:.0e}" if error else f"{sign} 0"
    return text if agrees(kind, error) else f"**WRONG** {text}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:]:
        for row in rows(tuple(sys.argv[1:])):
            sys.stdout.write(row + "\n")
            sys.stdout.flush()
    else:
        sys.stdout.write(page())
