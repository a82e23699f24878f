"""The payload `lora`: a PEFT adapter as it may stand in an update, written and read strictly.

Never imports torch.

Δ W = (α / r) · B A, with A (r, inputs) and B (outputs, r); stored the other way round where
`fan_in_fan_out` is true. peft's own adapter_config.json holds local paths, versions and some forty
switches. In an update it has the keys of `encode_config`, in one form, and whatever is not byte for
byte that form is refused: a rank pattern, DoRA, saved modules or trained biases cannot even be
said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mpu_cli.bundle.schema import MAX_RANK, TENSOR_PATTERN, FieldReader
from mpu_cli.checkpoint.header import TensorInfo, read_header
from mpu_cli.checkpoint.model import ADAPTER_CONFIG as ADAPTER_CONFIG
from mpu_cli.checkpoint.model import blocks
from mpu_cli.errors import BadBundleError, BadModelError

if TYPE_CHECKING:
    from mpu_cli.checkpoint.low_rank import Tensor

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_FILES = frozenset({ADAPTER_CONFIG, ADAPTER_WEIGHTS})
MAX_CONFIG_BYTES = 16 << 20
PEFT_PREFIX = "base_model.model."
_NAME = re.compile(re.escape(PEFT_PREFIX) + r"([!-~]{1,200})\.lora_([AB])\.weight")
_DTYPES = ("F32", "BF16")
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What an adapter in an update says about itself."""

    rank: int
    alpha: float
    modules: tuple[str, ...]
    """Full module names, sorted: `model.layers.0.self_attn.q_proj`."""
    fan_in_fan_out: bool
    """The weights are stored (inputs, outputs)."""

    @property
    def scale(self) -> float:
        """What B A is multiplied with."""
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class LowRankChange:
    """The change of one on-disk tensor, `scale · B A`, transposed where `transposed` says so."""

    name: str
    a: TensorInfo
    b: TensorInfo
    scale: float
    transposed: bool

    @property
    def dtype(self) -> str:
        """That of both factors, safetensors' name."""
        return self.a.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that it changes."""
        outputs, inputs = self.b.shape[0], self.a.shape[1]
        return (inputs, outputs) if self.transposed else (outputs, inputs)

    def rows(self, places: npt.NDArray[np.int64], columns: int) -> Tensor:
        """Rows of the change, given ascending: (rows, columns) float32.

        Nothing larger than them and A is held.
        """
        from mpu_cli.checkpoint.low_rank import product_rows

        if columns != self.shape[1]:
            raise ValueError(f"{self.name} has {self.shape[1]} columns, not {columns}")
        return product_rows(self.a, self.b, self.scale, places, transposed=self.transposed)

    def is_finite(self) -> bool:
        """Whether both factors are, and no entry of their product can leave the range of float32."""
        bound = _largest(self.a) * _largest(self.b) * self.a.shape[0] * self.scale
        return bound < _LARGEST  # False for NaN


def adapter_names(module: str) -> tuple[str, str]:
    """The names of A and B in peft's files."""
    return f"{PEFT_PREFIX}{module}.lora_A.weight", f"{PEFT_PREFIX}{module}.lora_B.weight"


def encode_config(config: AdapterConfig) -> bytes:
    """The bytes of adapter_config.json.

    Peft loads them, and there is no other way to write the same adapter.
    """
    alpha = int(config.alpha) if float(config.alpha).is_integer() else float(config.alpha)
    content = {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": config.fan_in_fan_out,
        "inference_mode": True,
        "lora_alpha": alpha,
        "peft_type": "LORA",
        "r": config.rank,
        "target_modules": list(config.modules),
        "task_type": "CAUSAL_LM",
    }
    return json.dumps(content, sort_keys=True, indent=2).encode("ascii") + b"\n"


def decode_config(data: bytes, where: object) -> AdapterConfig:
    """Parse and check adapter_config.json as it stands in an update.

    Raises:
        BadBundleError: an unknown key, a value outside its range, or another form than
            `encode_config` writes.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise BadBundleError(f"{where}: longer than {MAX_CONFIG_BYTES} bytes")
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
        raise BadBundleError(f"{where}: r is {rank}, a rank lies between 1 and {MAX_RANK}")
    if not 0 < alpha <= 1e6:
        raise BadBundleError(
            f"{where}: lora_alpha is {alpha:g}, it lies above 0 and at most at 1e6"
        )
    config = AdapterConfig(rank, alpha, modules, transposed)
    if (
        type(transposed) is not bool
        or modules != tuple(sorted(set(modules)))
        or encode_config(config) != data
    ):
        raise BadBundleError(
            f"{where}: is not in the form that mpu writes",
            "make the update with mpu unlearn or mpu diff",
        )
    return config


_FIXED: dict[str, Any] = {
    "base_model_name_or_path": None,
    "bias": "none",
    "inference_mode": True,
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
}


def open_adapter(path: Path) -> dict[str, LowRankChange]:
    """The changes of one copy of an update, by the on-disk tensors that they change.

    Raises:
        BadBundleError: malformed files, or tensors that are not exactly the pairs that the
            configuration names.
    """
    file = path / ADAPTER_CONFIG
    try:
        with file.open("rb") as handle:
            config = decode_config(handle.read(MAX_CONFIG_BYTES + 1), file)
    except OSError as error:
        raise BadBundleError(f"{file}: {error.strerror}") from error
    file = path / ADAPTER_WEIGHTS
    try:
        tensors, metadata = read_header(file)
    except BadModelError as error:
        raise BadBundleError(error.message, error.hint) from error
    if metadata not in ({}, {"format": "pt"}):
        raise BadBundleError(
            f"{file}: its metadata says more than the format",
            "make the update with mpu unlearn or mpu diff",
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
                f"{file}: the adapter of {module} is {a.dtype} and {b.dtype}, expected float32 or"
                " bfloat16"
            )
        if a.shape[0] != config.rank:
            raise BadBundleError(
                f"{file}: the adapter of {module} has rank {a.shape[0]}, {ADAPTER_CONFIG} says"
                f" {config.rank}"
            )
    return changes_of(pairs, config.scale, transposed=config.fan_in_fan_out)


def pair_up(
    tensors: dict[str, TensorInfo], where: object, error: type[BadModelError] | type[BadBundleError]
) -> Pairs:
    """A and B by module.

    Raises:
        MpuError: of the given kind: a tensor that is neither, one without the other, or shapes that
            do not fit.
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
            raise error(f"{where}: the adapter of {module} lacks {'A' if 'B' in half else 'B'}")
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
    "merge the adapter into the model (peft: merge_and_unload, save_pretrained) and hand in the"
    " full model"
)


def changes_of(pairs: Pairs, scale: float, *, transposed: bool) -> dict[str, LowRankChange]:
    """The changes that pairs make, by on-disk tensor."""
    named: Iterable[tuple[str, tuple[TensorInfo, TensorInfo]]] = (
        (f"{module}.weight", pair) for module, pair in pairs.items()
    )
    return {name: LowRankChange(name, a, b, scale, transposed) for name, (a, b) in named}


def _largest(info: TensorInfo) -> float:
    """The largest magnitude of a tensor; infinite if it holds a NaN."""
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
