"""Make the golden bundles beside this file: `python tests/golden/make_golden.py [DIRECTORY]`.

They fix format 1 on disk: a later mpu must still verify them and take the update back
(tests/bundle/test_golden.py). Everything comes from a prepared secret, and the model's weights are
dyadic fractions, exact on every machine. Only the noised entries (log, sin and cos of the
processor) and the digests over them may differ elsewhere.

    model-v1     a one-layer Llama, hidden size 8, vocabulary 16
    base-v1      the same minus a task vector
    handoff-v1   two perturbed copies of model-v1
    secret-v1    the server's directory of that lineage
    update-v1    Δ_k = T_k(d) for the known d of `change`: its aggregate is model-v1 + d
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.dtypes import read_tensor, to_bytes
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.settings import DEFAULT_SHARD_BYTES
from mpu_cli.checkpoint.writer import CheckpointWriter
from mpu_cli.client.delta import DeltaFormat
from mpu_cli.client.diff import diff
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.server.secrets.secret import PreparedEntropy
from mpu_cli.server.transforms.draw import draw_layer

MASTER = hashlib.sha256(b"mpu golden v1").digest()
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "dtype": "float32",
    "hidden_size": 8,
    "intermediate_size": 12,
    "max_position_embeddings": 32,
    "model_type": "llama",
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": True,
    "vocab_size": 16,
}
SHAPES = {
    "model.embed_tokens.weight": (16, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.mlp.down_proj.weight": (8, 12),
    "model.layers.0.mlp.gate_proj.weight": (12, 8),
    "model.layers.0.mlp.up_proj.weight": (12, 8),
    "model.layers.0.post_attention_layernorm.weight": (8,),
    "model.layers.0.self_attn.k_proj.weight": (4, 8),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
    "model.norm.weight": (8,),
}


def fractions(label: str, name: str, unit: float) -> torch.Tensor:
    """Pseudo-random multiples of `unit` between −127 and 128 of them.

    Exact in float32 on every machine.
    """
    shape = SHAPES[name]
    count = torch.Size(shape).numel()
    stream = hashlib.shake_128(f"{label} {name}".encode()).digest(count)
    return (torch.tensor(list(stream), dtype=torch.float32) - 127).mul_(unit).view(shape)


def weights() -> dict[str, torch.Tensor]:
    """θ: norms around one, the rest around zero."""
    return {
        name: fractions("weights", name, 2.0**-8) + (1.0 if "norm" in name else 0.0)
        for name in SHAPES
    }


def change(name: str) -> torch.Tensor | None:
    """The d that every client's change encodes: layer 0 without its norms.

    Absent tensors do not change.
    """
    return fractions("change", name, 2.0**-18) if "proj" in name else None


def save_model(directory: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Write a model directory without transformers, whose files differ between its versions."""
    from mpu_cli.checkpoint.header import TensorInfo

    directory.mkdir(parents=True)
    infos = [
        TensorInfo(name, "F32", tuple(tensor.shape), directory, 0)
        for name, tensor in tensors.items()
    ]
    writer = CheckpointWriter(directory, infos)
    for info in writer.order:
        writer.write(to_bytes(tensors[info.name]))
    writer.close()
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=2, sort_keys=True) + "\n")
    return directory


def make(directory: Path) -> None:
    """Write all five directories below `directory`, which must not hold them yet."""
    theta = weights()
    task = {name: fractions("task", name, 2.0**-12) for name in SHAPES if ".layers." in name}
    model = save_model(directory / "model-v1", theta)
    base = save_model(
        directory / "base-v1", {name: value - task.get(name, 0) for name, value in theta.items()}
    )
    handoff, secret = directory / "handoff-v1", directory / "secret-v1"
    settings = PerturbSettings(
        copies=2, kappa=0.1, offset=0.05, client="golden client", check="none"
    )
    perturb(
        Located(model, None),
        Located(base, None),
        Target(handoff, secret),
        settings,
        entropy=PreparedEntropy(MASTER),
    )
    lineage = Lineage.read(secret)
    record = next(iter(lineage.handoffs.values()))
    # The record holds the absolute path that was written; here it must not depend on the machine.
    lineage.save_handoff(replace(record, target="/golden/handoff-v1"))
    trained = directory / ".trained"
    source = open_checkpoint(model)
    layer = read_layout(source.config, shapes(source.tensors), model).layers[0]
    for copy in record.copies:
        steps = draw_layer(record.transforms, layer, MASTER, record.draw, copy.position)
        after = {}
        for name, info in open_checkpoint(handoff / copy.name).tensors.items():
            delta = change(name)
            after[name] = read_tensor(info) + (0 if delta is None else steps.apply(name, delta))
        save_model(trained / copy.name, after)
    diff(handoff, trained, directory / "update-v1", DeltaFormat("float32", DEFAULT_SHARD_BYTES))
    shutil.rmtree(trained)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for old in target.glob("*-v1"):
        shutil.rmtree(old)
    make(target)
    # The literals of tests/bundle/test_golden.py.
    for name in ("handoff-v1/mpu.yaml", "update-v1/mpu.yaml", "secret-v1/secret.yaml"):
        print(name, hashlib.sha256((target / name).read_bytes()).hexdigest())  # noqa: T201
