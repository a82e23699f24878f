"""Read and write the payload `lora`, a PEFT adapter in an update. Never imports torch.

ΔW = (α / r) · B A, with A (r, inputs) and B (outputs, r), transposed if `fan_in_fan_out` is true.
PEFT's own adapter_config.json holds local paths, versions and some forty switches. In an update it
has only the keys of `encode_config`, and mpu refuses any other form byte for byte: there are no
rank patterns, DoRA, saved modules or trained biases.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.bundle.schema import MAX_RANK, TENSOR_PATTERN, FieldReader
from mpu_cli.checkpoint.header import TensorInfo, read_header
from mpu_cli.checkpoint.model import ADAPTER_CONFIG as ADAPTER_CONFIG
from mpu_cli.checkpoint.model import blocks
from mpu_cli.checkpoint.plain_file import plain_file
from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.errors import BadBundleError, BadModelError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mpu_cli.checkpoint.low_rank import Tensor

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = frozenset({ADAPTER_CONFIG, ADAPTER_WEIGHTS})
MAX_CONFIG_BYTES = 16 << 20
PEFT_PREFIX = "base_model.model."
_NAME = re.compile(re.escape(PEFT_PREFIX) + r"([!-~]{1,200})\.lora_([AB])\.weight")
_DTYPES = ("F32", "BF16")
_LARGEST = (2 - 2**-23) * 2.0**127  # the largest float32
_MAKE_AGAIN = "make the update with mpu unlearn or mpu diff"
_FIXED: dict[str, Any] = {
    "base_model_name_or_path": None,
    "bias": "none",
    "inference_mode": True,
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
}


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """The adapter_config.json of an adapter in an update."""

    rank: int
    alpha: float
    modules: tuple[str, ...]
    """Full module names, sorted: `model.layers.0.self_attn.q_proj`."""
    fan_in_fan_out: bool
    """Whether the weights are stored as (inputs, outputs)."""

    @property
    def scale(self) -> float:
        """The factor of B A, α / r."""
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class LowRankChange:
    """The change of one on-disk tensor: `scale · B A`, or its transpose."""

    name: str
    a: TensorInfo
    b: TensorInfo
    scale: float
    transposed: bool

    @property
    def dtype(self) -> str:
        """The dtype (safetensors' name) of both factors."""
        return self.a.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the changed tensor."""
        outputs, inputs = self.b.shape[0], self.a.shape[1]
        return (inputs, outputs) if self.transposed else (outputs, inputs)

    def rows(self, places: npt.NDArray[np.int64]) -> Tensor:
        """Rows of the change, in ascending order: (rows, columns) float32.

        Memory holds only these rows and A.
        """
        from mpu_cli.checkpoint.low_rank import product_rows

        return product_rows(self.a, self.b, self.scale, places, transposed=self.transposed)

    def is_finite(self) -> bool:
        """Whether both factors are finite and their product cannot overflow float32."""
        bound = _largest(self.a) * _largest(self.b) * self.a.shape[0] * self.scale
        return bound < _LARGEST  # False for NaN


def adapter_names(module: str) -> tuple[str, str]:
    """The names of A and B in PEFT's files."""
    return f"{PEFT_PREFIX}{module}.lora_A.weight", f"{PEFT_PREFIX}{module}.lora_B.weight"


def encode_config(config: AdapterConfig) -> bytes:
    """The only valid bytes of adapter_config.json for an adapter; PEFT can load them."""
    alpha = int(config.alpha) if float(config.alpha).is_integer() else float(config.alpha)
    content = {
        **_FIXED,
        "fan_in_fan_out": config.fan_in_fan_out,
        "lora_alpha": alpha,
        "r": config.rank,
        "target_modules": list(config.modules),
    }
    return json.dumps(content, sort_keys=True, indent=2).encode("ascii") + b"\n"


def decode_config(data: bytes, where: object) -> AdapterConfig:
    """Parse and check the adapter_config.json of an update.

    Raises:
        BadBundleError: an unknown key, a value out of range, or another form than that of
            `encode_config`.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise BadBundleError(f"{where}: larger than {MAX_CONFIG_BYTES} bytes")
    try:
        content = json.loads(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise BadBundleError(f"{where}: not valid JSON ({error})") from error
    reader = FieldReader(content, where, BadBundleError)
    for key, only in _FIXED.items():
        if type(value := reader.take(key)) is not type(only) or value != only:
            raise reader.wrong(key, f"is not {json.dumps(only)}")
    rank, alpha = reader.natural("r"), reader.number("lora_alpha")
    modules, transposed = (
        reader.texts("target_modules", TENSOR_PATTERN),
        reader.take("fan_in_fan_out"),
    )
    reader.done()
    if not 1 <= rank <= MAX_RANK:
        raise BadBundleError(f"{where}: r is {rank}, expected 1 to {MAX_RANK}")
    if not 0 < alpha <= 1e6:
        raise BadBundleError(
            f"{where}: lora_alpha is {alpha:g}, expected a number above 0 and at most 1e6"
        )
    config = AdapterConfig(rank, alpha, modules, transposed)
    if (
        type(transposed) is not bool
        or modules != tuple(sorted(set(modules)))
        or encode_config(config) != data
    ):
        raise BadBundleError(f"{where}: is not in the form that mpu writes", _MAKE_AGAIN)
    return config


def open_adapter(path: Path) -> dict[str, LowRankChange]:
    """The changes of one copy of an update, by on-disk tensor.

    Raises:
        BadBundleError: malformed files, or tensors other than the pairs that adapter_config.json
            names.
    """
    file = path / ADAPTER_CONFIG
    try:
        data = read_file(plain_file(file), MAX_CONFIG_BYTES, BadBundleError)
    except BadModelError as error:
        raise BadBundleError(error.message, error.hint) from error
    config = decode_config(data, file)
    file = path / ADAPTER_WEIGHTS
    try:
        tensors, metadata = read_header(file)
    except BadModelError as error:
        raise BadBundleError(error.message, error.hint) from error
    if metadata not in ({}, {"format": "pt"}):
        raise BadBundleError(
            f"{file}: its metadata has keys that the format does not allow", _MAKE_AGAIN
        )
    pairs = pair_up(tensors, file, BadBundleError)
    if tuple(sorted(pairs)) != config.modules:
        odd = min(set(pairs) ^ set(config.modules))
        raise BadBundleError(
            f"{file}: {ADAPTER_CONFIG} and the tensors disagree about module {odd}"
        )
    for module, (a, b) in pairs.items():
        if a.dtype not in _DTYPES or b.dtype != a.dtype:
            raise BadBundleError(
                f"{file}: the adapter of {module} has the dtypes {a.dtype} and {b.dtype}, expected"
                " float32 or bfloat16 for both"
            )
        if a.shape[0] != config.rank:
            raise BadBundleError(
                f"{file}: the adapter of {module} has rank {a.shape[0]}, but {ADAPTER_CONFIG} says"
                f" {config.rank}"
            )
    return changes_of(pairs, config.scale, transposed=config.fan_in_fan_out)


def pair_up(
    tensors: dict[str, TensorInfo], where: object, error: type[BadModelError] | type[BadBundleError]
) -> Pairs:
    """Pair A and B of each module.

    Raises:
        error: a tensor that is neither A nor B, one without the other, or shapes that do not match.
    """
    halves: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise error(f"{where}: tensor {name[:200]} is not an A or B of LoRA", MERGE_INSTEAD)
        halves.setdefault(match[1], {})[match[2]] = info
    if not halves:
        raise error(f"{where}: holds no adapter")
    pairs: Pairs = {}
    for module, half in halves.items():
        if set(half) != {"A", "B"}:
            raise error(f"{where}: the adapter of {module} has no {'A' if 'B' in half else 'B'}")
        a, b = half["A"], half["B"]
        if (
            len(a.shape) != 2
            or len(b.shape) != 2
            or a.shape[0] != b.shape[1]
            or 0 in (*a.shape, *b.shape)
        ):
            raise error(
                f"{where}: the adapter of {module} has the shapes {list(a.shape)} and"
                f" {list(b.shape)}",
                MERGE_INSTEAD,
            )
        pairs[module] = (a, b)
    return pairs


Pairs = dict[str, tuple[TensorInfo, TensorInfo]]
MERGE_INSTEAD = (
    "merge the adapter into the model (peft: merge_and_unload, save_pretrained) and give the full"
    " model"
)


def changes_of(pairs: Pairs, scale: float, *, transposed: bool) -> dict[str, LowRankChange]:
    """The changes that pairs of A and B describe, by on-disk tensor."""
    changes = (
        LowRankChange(f"{module}.weight", a, b, scale, transposed)
        for module, (a, b) in pairs.items()
    )
    return {change.name: change for change in changes}


def _largest(info: TensorInfo) -> float:
    """The largest magnitude of a tensor's entries; infinite if it holds a NaN."""
    import numpy as np

    largest = 0.0
    for block in blocks(info):
        if info.dtype == "BF16":
            values = (np.frombuffer(block, dtype="<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(block, dtype="<f4")
        if not bool(np.isfinite(values).all()):
            return float("inf")
        largest = max(largest, float(np.abs(values).max()))
    return largest
