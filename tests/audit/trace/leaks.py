"""Found models: what people do to a model before somebody finds it, on whole directories."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FILE = "model.safetensors"


def tensors_of(directory):
    """All tensors of a model directory of one file."""
    return load_file(directory / FILE)


def leak(tensors, like, out) -> Path:
    """A model directory with these tensors, and the side files of another."""
    shutil.copytree(like, out, ignore=shutil.ignore_patterns("*.safetensors", "mpu.yaml"))
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(plain, out / FILE, metadata={"format": "pt"})
    return out


def quantised(tensors, bits, group=32):
    """Round every matrix to nearest, with one scale for each group, and back, as programs save."""
    return {
        name: _rounded(tensor, bits, group) if tensor.dim() == 2 else tensor
        for name, tensor in tensors.items()
    }


def _rounded(tensor, bits, group):
    rows = tensor.float().reshape(-1, group)
    scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
    return ((rows / scale).round() * scale).view(tensor.shape).to(tensor.dtype)


def mixed(*parts):
    """A linear merge: Σ share · tensors of the parts (share, tensors)."""
    return {
        name: sum(share * tensors[name].float() for share, tensors in parts) for name in parts[0][1]
    }


def drifted(tensors, share, seed=0):
    """A random change of every tensor by a share of its RMS, as after more training."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor
        + share * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in tensors.items()
    }
