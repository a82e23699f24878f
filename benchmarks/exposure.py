"""What copies really leave unknown, measured on the demo model: `python benchmarks/exposure.py [--json]`.

The reparameterization is left out (`--reparam none`): a client with the public base undoes it in seconds, so what is
measured is what stays then. Unknown is ‖estimate − θ‖ / ‖θ − base‖ over the decoder layers; the estimate from all
copies is their weighted sum. Behaviour is the mean KL divergence, nats per token, of a copy's answers from θ's on 40 rows,
beside that of the base. About 30 seconds on one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from hashlib import sha256
from pathlib import Path

import torch

from mpu_cli.checkpoint.dtypes import read_tensor
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.data.batches import collate, pad_id
from mpu_cli.data.rows import read_rows
from mpu_cli.data.templates import encode
from mpu_cli.experiment.demo import assets
from mpu_cli.server.denoise import weights
from mpu_cli.server.perturb import perturb
from mpu_cli.server.secret import PreparedEntropy
from mpu_cli.server.settings import PerturbSettings
from mpu_cli.training.load import load_model, load_tokenizer

SETTINGS = {
    "κ 0.01": {"kappa": 0.01},
    "κ 0.1": {"kappa": 0.1},
    "κ 1": {"kappa": 1.0},
    "κ 0.1, extrapolation": {"kappa": 0.1, "denoising": "extrapolation"},
    "κ 0.1, offset 0.1": {"kappa": 0.1, "offset": 0.1},
    "κ 0, offset 0.1, one copy": {"kappa": 0.0, "offset": 0.1, "copies": 1},
}


def layers(path: Path) -> dict[str, torch.Tensor]:
    """The decoder layers' tensors, float64."""
    tensors = open_checkpoint(path).tensors
    return {name: read_tensor(info).double() for name, info in tensors.items() if ".layers." in name}


def distance(first, second) -> float:
    """Euclidean norm of the difference."""
    return sum(float((first[name] - second[name]).square().sum()) for name in second) ** 0.5


def log_probabilities(path: Path) -> torch.Tensor:
    """Log p of every answer token's distribution, (tokens, V)."""
    tokenizer = load_tokenizer(path)
    rows = [encode(row, tokenizer, 128) for row in read_rows(assets() / "forget.jsonl")]
    batch = collate(rows, pad_id(tokenizer))
    with torch.inference_mode():
        logits = load_model(path).model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, :-1][batch["labels"][:, 1:] != -100].double().log_softmax(-1)


def kl(truth: torch.Tensor, other: torch.Tensor) -> float:
    """KL(truth ‖ other), nats per token."""
    return float((truth.exp() * (truth - other)).sum(-1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, base = assets() / "model", assets() / "base"
    theta = layers(model)
    unit, truth = distance(theta, layers(base)), log_probabilities(model)
    result = {"base KL": kl(truth, log_probabilities(base)), "settings": {}}
    for name, setting in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            handoff = Path(folder) / "to-client"
            record = perturb(
                Located(model, None), Located(base, None), handoff, Path(folder) / "secret",
                PerturbSettings(check="none", reparam="none", **setting),
                entropy=PreparedEntropy(sha256(b"exposure benchmark").digest()),
            ).handoffs[0]  # fmt: skip
            copies = [layers(handoff / copy.name) for copy in record.copies]
            share = weights(record.denoising, [copy.coefficient for copy in record.copies])
            pooled = {key: sum(w * copy[key] for w, copy in zip(share, copies, strict=True)) for key in theta}
            best = min(range(len(copies)), key=lambda k: abs(record.copies[k].coefficient))
            result["settings"][name] = {
                "stated one": record.exposure["one_copy"],
                "measured one": distance(copies[best], theta) / unit,
                "stated all": record.exposure["all_copies"],
                "measured all": distance(pooled, theta) / unit,
                "KL": kl(truth, log_probabilities(handoff / record.copies[best].name)),
            }
    if options.json:
        print(json.dumps(result))
        return
    print(f"KL of the base from the model: {result['base KL']:.3g} nats per token")
    print(f"{'setting':28}{'one copy: stated':>17}{'measured':>10}{'all copies: stated':>20}{'measured':>10}{'KL of a copy':>14}")
    for name, row in result["settings"].items():
        one, everything = f"{row['stated one']:17.4g}{row['measured one']:10.4g}", f"{row['stated all']:20.4g}{row['measured all']:10.2g}"
        print(f"{name:28}{one}{everything}{row['KL']:14.2g}")


if __name__ == "__main__":
    main()
