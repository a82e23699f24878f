"""Both parties' steps on tiny models, through the public functions: perturb, train, aggregate.

The training loop is plain torch, because these tests check the server for any client.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import torch
from optimizer_cases import optimizer_case
from safetensors.torch import load_file, save_file

from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.bundle.read import read_handoff
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.inventory import MARKER
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.client.delta import DeltaFormat
from mpu_cli.client.diff import diff
from mpu_cli.client.update import write_manifest
from mpu_cli.server.aggregation.aggregate import aggregate
from mpu_cli.server.aggregation.settings import AggregateSettings
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.server.transforms.draw import draw_layer
from mpu_cli.training import optimizers

SHARD_BYTES = 10**9


def publish(model, base, handoff, secret, entropy=None, *, new_lineage=None, **settings):
    """`mpu perturb` through the library, without the check unless asked for.

    It begins a lineage where there is none.
    """
    settings = {"check": "none", **settings}
    return perturb(
        Located(model, None),
        Located(base, None) if base else None,
        Target(
            handoff, secret, new_lineage=not secret.exists() if new_lineage is None else new_lineage
        ),
        PerturbSettings(**settings),
        entropy=entropy,
    )


def take_back(updates, secret, model, out, **settings):
    """`mpu aggregate` through the library."""
    updates = [updates] if isinstance(updates, Path) else updates
    return aggregate(updates, secret, Located(model, None), out, AggregateSettings(**settings))


def weights(directory):
    """All tensors of a model directory, by name."""
    return load_file(directory / "model.safetensors")


def digest(directory):
    """The model digest of a directory."""
    return model_digest(open_checkpoint(directory))


def layout_of(directory, family=None):
    """The layout of a model directory."""
    checkpoint = open_checkpoint(directory)
    return read_layout(checkpoint.config, shapes(checkpoint.tensors), directory, family)


def steps_of(secret, record, model):
    """T_k of every copy of a handoff record, by name, then by layer: from the server's secret."""
    master = Lineage.read(secret).secret.master
    return {
        copy.name: {
            layer.index: draw_layer(record.transforms, layer, master, record.draw, copy.position)
            for layer in layout_of(model).layers
        }
        for copy in record.copies
    }


def moved(steps, model, tensors, *, back=False):
    """T(tensors), or T⁻¹ of them."""
    layer_of = layout_of(model).layer_of()
    result = {}
    for name in tensors:
        step = steps.get(layer_of.get(name))
        if step is None:
            result[name] = tensors[name]
        elif back:
            result[name] = step.invert(name, tensors[step.target(name)])
        else:
            result[step.target(name)] = step.apply(name, tensors[name])
    return result


def undone(secret, record, model, handoff):
    """The published copies with T undone, by name, as float64."""
    return {
        name: {
            key: value.double()
            for key, value in moved(steps, model, weights(handoff / name), back=True).items()
        }
        for name, steps in steps_of(secret, record, model).items()
    }


def untrained(handoff, out):
    """The update of a client who changed nothing."""
    return diff(handoff, handoff, out, DeltaFormat("float32", SHARD_BYTES))


def hand_back(handoff, trained, out, dtype="float32"):
    """The update from models trained under `trained/copy-k`."""
    return diff(handoff, trained, out, DeltaFormat(dtype, SHARD_BYTES))


def write_update(handoff, out, deltas) -> UpdateManifest:
    """An update from given tensors by copy name, honest or not."""
    manifest = read_handoff(handoff)
    answered = [copy for copy in manifest.copies if copy.name in deltas]
    for name, tensors in deltas.items():
        (out / name).mkdir(parents=True)
        save_file(
            {key: value.contiguous() for key, value in tensors.items()},
            out / name / "delta.safetensors",
        )
    return write_manifest(
        out, SimpleNamespace(id=manifest.id, digest=manifest.digest, copies=answered)
    )


def small_change(model, share=0.01, number=0):
    """A random change of everything that a client may move, of `share` of the weights, float32."""
    generator = torch.Generator().manual_seed(number)
    frozen = layout_of(model).frozen
    return {
        name: (
            share
            * tensor.float().square().mean().sqrt()
            * torch.randn(tensor.shape, generator=generator)
        )
        for name, tensor in weights(model).items()
        if name not in frozen
    }


def change_all(secret, record, model, handoff, out, change):
    """The update T_k(change) of every copy of a handoff."""
    steps = steps_of(secret, record, model)
    return write_update(handoff, out, {name: moved(steps[name], model, change) for name in steps})


def train(source, out, optimizer, steps=20, rate=None, batch=4, length=12, seed=0):
    """Gradient difference on fixed random rows; embeddings and head frozen; saves to `out`."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.train()
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        module.weight.requires_grad_(False)
    named = [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    groups = [{"params": named, "weight_decay": 0.0}]
    built = optimizers.get(optimizer).build(
        groups, rate or optimizer_case(optimizer).round_rate, model.config.to_dict()
    )
    generator = torch.Generator().manual_seed(seed)
    vocabulary = model.config.vocab_size
    for _ in range(steps):
        rows = torch.randint(0, vocabulary, (2, batch, length), generator=generator)
        forget, retain = (model(input_ids=part, labels=part).loss for part in rows)
        built.zero_grad()
        (retain - forget).backward()
        torch.nn.utils.clip_grad_norm_([parameter for _, parameter in named], 1.0)
        built.step()
    model.eval().save_pretrained(out)
    return out


def train_all(handoff, trained, optimizer, **options):
    """The same training on every copy of a handoff."""
    for copy in read_handoff(handoff).copies:
        train(handoff / copy.name, trained / copy.name, optimizer, **options)
    return trained


def difference(after, before):
    """After − before of two model directories, float64, by name."""
    first, second = weights(after), weights(before)
    return {name: first[name].double() - second[name].double() for name in second}


def relative(actual, expected):
    """‖actual − expected‖ / ‖expected‖ over all tensors."""
    squares = sum(
        float((actual[name].double() - expected[name].double()).square().sum()) for name in expected
    )
    return (
        squares / sum(float(value.double().square().sum()) for value in expected.values())
    ) ** 0.5


def norm(tensors):
    """Euclidean norm over all tensors."""
    return sum(float(value.double().square().sum()) for value in tensors.values()) ** 0.5


def fingerprint(directory):
    """SHA-256 of every file below a directory, by relative path."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def leftovers(root):
    """Hidden files and directories below a folder."""
    return sorted(str(path.relative_to(root)) for path in root.rglob(".*") if path.name != MARKER)
