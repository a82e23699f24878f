"""Anonymous memory and CPU time of perturb and aggregate: `python benchmarks/memory.py [--model DIR --base DIR] [--json]`.

Each command runs in a child that imports everything first, then waits; the parent samples RssAnon of
/proc/PID/status every 5 ms from then on. What is printed is the peak above the imports (file pages that the kernel can
drop do not count). The bar is 300 MiB for a model of any size. Without --model a float32 checkpoint of SmolLM2-135M's
shape is made in a temporary directory (about 5 GB of disk in all, two minutes).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

BAR_MIB = 300
COPIES = 3
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    "tie_word_embeddings": True, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "hidden_act": "silu", "dtype": "float32",
}  # fmt: skip

PERTURB = """
import sys, time, torch
torch.set_num_threads(1)
from pathlib import Path
from mpu_cli.checkpoint.locate import Located
from mpu_cli.server.perturb import perturb
from mpu_cli.server.secret import PreparedEntropy
from mpu_cli.server.settings import PerturbSettings
model, base, handoff, secret, copies = sys.argv[1:]
settings = PerturbSettings(copies=int(copies), check="none")
print("ready", flush=True); input()
started, wall = time.process_time(), time.monotonic()
base = Located(Path(base), None) if base else None
perturb(Located(Path(model), None), base, Path(handoff), Path(secret), settings, entropy=PreparedEntropy(bytes(32)))
print(time.process_time() - started, time.monotonic() - wall, flush=True); input()
"""
AGGREGATE = """
import sys, time, torch
torch.set_num_threads(1)
from pathlib import Path
from mpu_cli.checkpoint.locate import Located
from mpu_cli.server.aggregate import AggregateSettings, aggregate
model, update, secret, out = sys.argv[1:]
settings = AggregateSettings(min_agreement=-1.0)
print("ready", flush=True); input()
started, wall = time.process_time(), time.monotonic()
aggregate([Path(update)], Path(secret), Located(Path(model), None), Path(out), settings)
print(time.process_time() - started, time.monotonic() - wall, flush=True); input()
"""


def shapes() -> dict[str, tuple[int, ...]]:
    """SmolLM2-135M's tensors."""
    hidden, ffn, kv = CONFIG["hidden_size"], CONFIG["intermediate_size"], 192
    found = {"model.embed_tokens.weight": (CONFIG["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    for layer in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        found |= {prefix + f"{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        found |= {prefix + f"self_attn.{name}_proj.weight": (hidden, hidden) for name in "qo"}
        found |= {prefix + f"self_attn.{name}_proj.weight": (kv, hidden) for name in "kv"}
        found |= {prefix + f"mlp.{name}_proj.weight": (ffn, hidden) for name in ("gate", "up")}
        found |= {prefix + "mlp.down_proj.weight": (hidden, ffn)}
    return found


def write_model(directory: Path, task: float) -> Path:
    """Random weights; the same for every `task` but for a share `task` of them."""
    from mpu_cli.checkpoint.header import TensorInfo
    from mpu_cli.checkpoint.writer import CheckpointWriter

    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    infos = [TensorInfo(name, "F32", shape, directory, 0) for name, shape in shapes().items()]
    writer = CheckpointWriter(directory, infos)
    for info in writer.order:
        weights = _random(info.name, info.elements)
        if task and ".layers." in info.name:
            weights = weights + task * _random("task " + info.name, info.elements)
        writer.write((0.05 * weights).numpy().tobytes())
    writer.close()
    return directory


def write_update(handoff: Path, out: Path) -> Path:
    """An update of every tensor but the embedding, of 1 % of the weights."""
    from mpu_cli.bundle.read import read_handoff
    from mpu_cli.checkpoint.model import open_checkpoint
    from mpu_cli.checkpoint.writer import CheckpointWriter
    from mpu_cli.client.update import write_manifest

    manifest = read_handoff(handoff)
    for copy in manifest.copies:
        (out / copy.name).mkdir(parents=True)
        tensors = open_checkpoint(handoff / copy.name).tensors.values()
        writer = CheckpointWriter(out / copy.name, [info for info in tensors if info.name not in manifest.frozen], stem="delta")
        for info in writer.order:
            writer.write((0.0005 * _random("delta " + info.name, info.elements)).numpy().tobytes())
        writer.close()
    write_manifest(out, manifest)
    return out


def _random(name: str, count: int):
    import torch

    generator = torch.Generator().manual_seed(int.from_bytes(sha256(name.encode()).digest()[:4], "big"))
    return torch.randn(count, generator=generator)


def anonymous(pid: int) -> int:
    """RssAnon of a process, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def measured(code: str, *arguments: object) -> dict[str, float]:
    """Run one command in a child; its peak above the imports, and its time."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline().strip() == "ready", "the child died while importing"
    before = peak = anonymous(child.pid)
    child.stdin.write("\n")
    import selectors

    selector = selectors.DefaultSelector()
    selector.register(child.stdout, selectors.EVENT_READ)
    samples = 0
    while not selector.select(0.005):
        peak = max(peak, anonymous(child.pid))
        samples += 1
    line = child.stdout.readline().split()
    assert len(line) == 2, "the command failed"
    child.stdin.write("\n")
    child.wait()
    return {
        "peak_mib": (peak - before) / 2**20, "imports_mib": before / 2**20, "samples": samples,
        "cpu_seconds": float(line[0]), "wall_seconds": float(line[1]),
    }  # fmt: skip


def measure(model: Path | None, base: Path | None) -> dict[str, dict[str, float]]:
    """Perturb (check none) and aggregate on a model, m = 3."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if model is None:
            model, base = write_model(root / "model", 0.15), write_model(root / "base", 0.0)
        found = {"perturb": measured(PERTURB, model, base or "", root / "handoff", root / "server", COPIES)}
        update = write_update(root / "handoff", root / "update")
        found["aggregate"] = measured(AGGREGATE, model, update, root / "server", root / "next")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model directory (default: made, SmolLM2-135M's shape)")
    parser.add_argument("--base", type=Path, help="its base (noise is relative to the weights without one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    started = time.monotonic()
    found = measure(options.model, options.base)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'':10}{'peak above imports':>20}{'imports':>12}{'CPU s':>8}{'wall s':>8}   m = {COPIES}, bar {BAR_MIB} MiB")
    for name, row in found.items():
        print(
            f"{name:10}{row['peak_mib']:16.0f} MiB{row['imports_mib']:8.0f} MiB{row['cpu_seconds']:8.1f}{row['wall_seconds']:8.1f}"
            f"   {'ok' if row['peak_mib'] <= BAR_MIB else 'TOO MUCH'}"
        )
    print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
