"""One small round with everything that the parties exchange: what the cases break copies of."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file, save_file

from round_inputs import FORGET, PLAN, QUICK, RETAIN, quietly

TRAINING = (*QUICK, "--device", "cpu")
MEASURING = (
    *("--device", "cpu", "--resamples", "1000", "--no-generate"),
    *("--metric", "answer_probability"),
)
SHARDS = ("--max-shard-size", "60kB")


@dataclass(frozen=True)
class World:
    """Directories of both parties below one root; nothing may change them."""

    root: Path

    def __getattr__(self, name: str) -> Path:
        """`world.lora_update` is `root/lora-update`."""
        return self.root / name.replace("_", "-")

    def thing(self, name: str) -> Path:
        """The whole thing of which a case breaks a copy."""
        return self.root / name.replace(" ", "-").lower()


def make_world(root: Path, model: Path, base: Path) -> World:
    """Play two rounds of two lineages, and evaluate."""
    w = World(root)
    shutil.copytree(model, w.model)
    shutil.copytree(base, w.base)
    for name, rows in (("forget", FORGET), ("retain", RETAIN), ("decoys", RETAIN[::-1])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"{name}.jsonl").write_text(text.replace("w5", "w6") if name == "decoys" else text)
    rows = ("--forget", root / "forget.jsonl", "--retain", root / "retain.jsonl")

    def must(*arguments: object) -> None:
        assert quietly((*arguments, "--quiet")) == 0, arguments

    own = ("perturb", w.model, "--base", w.base, "--secret", w.secret, "-m", 2, "--kappa", 0.01)
    must(*own, "--handoff", w.handoff)
    shutil.copytree(w.secret, w.secret_before)
    must(*own, "--handoff", w.handoff_in_shards, *SHARDS)
    foreign = ("--new-lineage", w.foreign_secret, "-m", 2, "--kappa", 0.01)
    must("perturb", w.model, "--base", w.base, "--handoff", w.foreign_handoff, *foreign)
    must("unlearn", w.handoff, *rows, *TRAINING, "--out", w.update)
    lora = ("--lora-rank", 4, "--out", w.lora_update)
    must("unlearn", w.handoff, *rows, *TRAINING, *lora)
    for source, trained, out, more in (
        (w.handoff_in_shards, "trained-shards", w.update_in_shards, ("--max-shard-size", "20kB")),
        (w.foreign_handoff, "trained-foreign", w.foreign_update, ()),
    ):
        must("diff", source, _trained(source, root / trained), "--out", out, *more)
    _trained(w.handoff, w.trained)
    for member in ("lab", "clinic"):
        must("mask", "key", "--out", root / f"{member}.key")
    keys = (root / "lab.key.pub", root / "clinic.key.pub")
    must("mask", "group", *keys, "--out", root / "group.txt")
    for member, out in (("lab", w.masked_update), ("clinic", w.other_masked_update)):
        files = ("--handoff", w.handoff, "--group", root / "group.txt")
        key = ("--key", root / f"{member}.key", "--out", out)
        must("mask", "update", w.update, *files, *key)
    must("eval", w.model, *rows, *MEASURING, "--record", w.record)
    shutil.copytree(w.secret, w.secret_after)
    secret = ("--secret", w.secret_after, "--model", w.model)
    must("aggregate", w.update, *secret, "--out", w.model_next)
    must("eval", w.model_next, *rows, *MEASURING, "--record", w.other_record)
    _shards(w.model, w.model_in_shards)
    w.plan.mkdir()
    (w.plan / "plan.yaml").write_text(PLAN)
    for name in ("model", "base", "forget.jsonl", "retain.jsonl"):
        (w.plan / name).symlink_to(root / name)
    w.rows.mkdir()
    shutil.copy(root / "forget.jsonl", w.rows / "forget.jsonl")
    return w


def _trained(handoff: Path, trained: Path) -> Path:
    """Copies of a handoff after a change of one layer, as another program may train."""
    shutil.copytree(handoff, trained)
    (trained / "mpu.yaml").unlink()
    for file in trained.glob("*/*.safetensors"):
        tensors = load_file(file)
        for name in tensors:
            if "layers.1." in name:
                tensors[name] = tensors[name] * 1.001
        save_file(tensors, file, metadata={"format": "pt"})
    return trained


def _shards(model: Path, out: Path) -> None:
    shutil.copytree(model, out)
    (out / "model.safetensors").unlink()
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    half = len(names) // 2
    weight_map = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, out / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))


def packed(directory: Path, out: Path) -> Path:
    """A tar file of a bundle, as `tar` makes it."""
    with tarfile.open(out, "w") as archive:
        archive.add(directory, directory.name)
    return out
