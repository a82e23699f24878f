"""What a client without mpu does: peft's own adapters from a plain loop, and hostile ones."""

from __future__ import annotations

import json
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file

from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.bundle.read import read_handoff
from mpu_cli.client.update import write_manifest

RESIDUAL = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")


def load(directory):
    """A model, float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def train_with_peft(source, out, targets=RESIDUAL, steps=5, rate=1e-3, save=None, **config):
    """Train gradient difference on fixed random rows by a plain loop, and save by peft."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)  # the same A for every copy
    settings = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": list(targets),
        "task_type": "CAUSAL_LM",
        **config,
    }
    model = get_peft_model(load(source), LoraConfig(**settings))
    model.train()
    optimizer = torch.optim.AdamW(
        [one for one in model.parameters() if one.requires_grad], lr=rate, weight_decay=0
    )
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        forget, retain = (
            model(input_ids=rows, labels=rows).loss
            for rows in torch.randint(0, 64, (2, 4, 12), generator=generator)
        )
        optimizer.zero_grad()
        (retain - forget).backward()
        optimizer.step()
    model.save_pretrained(out, **(save or {}))
    return model


def train_all_with_peft(handoff, trained, **options):
    """The same on every copy of a handoff."""
    for copy in read_handoff(handoff).copies:
        train_with_peft(handoff / copy.name, trained / copy.name, **options)
    return trained


def listed_again(update, handoff) -> UpdateManifest:
    """Write an altered update's manifest anew, so that only what it holds can be refused."""
    (update / "mpu.yaml").unlink()
    manifest = read_handoff(handoff)
    copies = [copy for copy in manifest.copies if (update / copy.name).is_dir()]
    return write_manifest(
        update, SimpleNamespace(id=manifest.id, digest=manifest.digest, copies=copies)
    )


def change_config(directory, **values):
    """Edit an adapter_config.json, in the form in which it may stand in an update."""
    file = directory / "adapter_config.json"
    content = {**json.loads(file.read_text()), **values}
    file.write_text(
        json.dumps(
            {key: value for key, value in content.items() if value is not ...},
            sort_keys=True,
            indent=2,
        )
        + "\n"
    )


def change_tensors(directory, change):
    """Edit the tensors of an adapter: `change` takes and returns the dictionary."""
    file = directory / "adapter_model.safetensors"
    tensors = change(dict(load_file(file)))
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        file,
        metadata={"format": "pt"},
    )
