"""What copies leave unknown, stated and measured side by side on the demo model.

`python benchmarks/exposure.py [--json]`.

The reparameterization is left out (`--reparam none`): a client with the public base undoes it in
seconds, so what is measured is what stays then. Three pairs are attacked: the demo's; its base plus
a task vector of rank 8 in every matrix, as a merged LoRA leaves it; its base in bfloat16 plus a
change of .4 % of the weights. Unknown is ‖estimate − θ‖ / ‖θ − base‖ over the
decoder layers. Estimates: *linear*, the base plus the best combination of (copy − base), fitted
with θ in hand, so no attack of this form does better; *singular values*, from one copy, each matrix
of (copy − base) with its singular values shrunk for the known size of the noise (Gavish and Donoho
2017), or *best*: each one's share chosen with θ in hand, so no shrinker does better; *rounding*,
from one copy, to bfloat16. Beside them what such a number does not say: KL(θ‖copy) / KL(θ‖base) of
the answers on 40 rows, and the share of the noised entries that come back exactly when a copy is
rounded to the model's own number grid. About 40 seconds on one core.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import combinations
from math import hypot, sqrt
from pathlib import Path

import torch
from safetensors.torch import save_file

from mpu_cli.checkpoint.dtypes import read_tensor
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.data.batches import collate, pad_id
from mpu_cli.data.rows import read_rows
from mpu_cli.data.templates import encode
from mpu_cli.demo.demonstration import assets
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer
from mpu_cli.server.lineage.exposure import ledger, left, noise_of, pooled
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.result import PerturbResult
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.server.secrets.secret import PreparedEntropy

Tensors = Mapping[str, torch.Tensor]
SETTINGS = {
    "κ 0.01": {"kappa": 0.01},
    "κ 0.1": {"kappa": 0.1},
    "κ 1": {"kappa": 1.0},
    "κ 0.1, extrapolation": {"kappa": 0.1, "denoising": "extrapolation"},
    "κ 0.1, offset 0.1": {"kappa": 0.1, "offset": 0.1},
    "κ 1, offset 1": {"kappa": 1.0, "offset": 1.0},
    "κ 0, offset 0.1, one copy": {"kappa": 0.0, "offset": 0.1, "copies": 1},
    "κ 0, offset 1, one copy": {"kappa": 0.0, "offset": 1.0, "copies": 1},
    "κ 0, offset 3, one copy": {"kappa": 0.0, "offset": 3.0, "copies": 1},
}
ROUNDS = {
    "κ 1, split over three holders": [{"kappa": 1.0, "split": True}],
    "κ 1, offset 0.3, split over three holders": [{"kappa": 1.0, "offset": 0.3, "split": True}],
    "κ 1, extrapolation, split over three holders": [
        {"kappa": 1.0, "denoising": "extrapolation", "split": True}
    ],
    "κ 1, one copy, two rounds to one client": [{"kappa": 1.0, "copies": 1}] * 2,
    "κ 1, one copy, ten rounds to one client": [{"kappa": 1.0, "copies": 1}] * 10,
    "κ 1, offset 1, one copy, ten rounds to one client": (
        [{"kappa": 1.0, "offset": 1.0, "copies": 1}] * 10
    ),
}


def layers(path: Path) -> dict[str, torch.Tensor]:
    """The decoder layers' tensors, float64."""
    tensors = open_checkpoint(path).tensors
    return {
        name: read_tensor(info).double() for name, info in tensors.items() if ".layers." in name
    }


def flat(tensors: Tensors) -> torch.Tensor:
    """All entries in one vector, in the order of the names."""
    return torch.cat([tensors[name].ravel() for name in sorted(tensors)])


def best_linear(copies: Sequence[torch.Tensor], task: torch.Tensor) -> float:
    """What least squares of the task vector (N,) on copies − base (N,) each leaves, relative."""
    matrix = torch.stack(list(copies), dim=1)
    return float(
        (matrix @ torch.linalg.lstsq(matrix, task[:, None]).solution - task[:, None]).norm()
        / task.norm()
    )


def shrunk(matrix: torch.Tensor, sigma: float) -> torch.Tensor:
    """Remove white noise of size `sigma` by optimal shrinkage of singular values (Frobenius)."""
    if min(matrix.shape) < 2 or not sigma:
        return matrix
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    ratio, unit = min(matrix.shape) / max(matrix.shape), sigma * sqrt(max(matrix.shape))
    y = values / unit
    inside = ((y.square() - ratio - 1).square() - 4 * ratio).clamp(min=0).sqrt() / y
    return u @ torch.diag(torch.where(y > 1 + sqrt(ratio), unit * inside, 0.0)) @ v


def singular_values(copy: Tensors, base: Tensors, task: Tensors, noise: float) -> float:
    """What shrinking leaves of the task vector, relative.

    `noise` as a share of the task vector, layer by layer.
    """
    layer_of = {name: name.split(".layers.")[1].split(".")[0] for name in task}
    error = total = 0.0
    for layer in sorted(set(layer_of.values())):
        mine = [name for name in task if layer_of[name] == layer]
        squares = sum(float(task[name].square().sum()) for name in mine)
        rms = sqrt(squares / sum(task[name].numel() for name in mine))
        for name in mine:
            seen = copy[name] - base[name]
            guess = shrunk(seen, noise * rms) if seen.dim() == 2 else seen / (1 + noise**2)
            error += float((guess - task[name]).square().sum())
        total += squares
    return sqrt(error / total)


def best_shrinker(copy: Tensors, base: Tensors, task: Tensors) -> float:
    """What the best choice of singular values of copy − base leaves of the task vector, relative.

    A tensor that is no matrix gets the best share of its difference.
    """
    error = 0.0
    for name, change in task.items():
        seen = copy[name] - base[name]
        if seen.dim() == 2:
            u, _, v = torch.linalg.svd(seen, full_matrices=False)
            guess = u @ torch.diag(((u.T @ change) * v).sum(1)) @ v
        else:
            guess = seen * (seen @ change / (seen @ seen))
        error += float((guess - change).square().sum())
    return sqrt(error) / float(flat(task).norm())


def rounding(copy: Tensors, theta: Tensors, task: Tensors) -> float:
    """What rounding the copy to bfloat16 leaves of the task vector, relative."""
    rounded = {name: value.bfloat16().double() for name, value in copy.items()}
    return float((flat(rounded) - flat(theta)).norm() / flat(task).norm())


def made_pair(folder: Path, kind: str) -> tuple[Path, Path]:
    """Write a model and its base below `folder`: `rank 8` or `light bfloat16`."""
    generator = torch.Generator().manual_seed(8)
    tensors = {
        name: read_tensor(info) for name, info in open_checkpoint(assets() / "base").tensors.items()
    }
    changed = {}
    for name, value in tensors.items():
        if ".layers." not in name or value.dim() != 2:
            continue
        rms = float(value.square().mean().sqrt())
        if kind == "rank 8":
            thin = [torch.randn(size, 8, generator=generator) for size in value.shape]
            changed[name] = 0.02 * rms * thin[0] @ thin[1].T
        else:
            changed[name] = 0.004 * rms * torch.randn(value.shape, generator=generator)
    dtype = torch.float32 if kind == "rank 8" else torch.bfloat16
    before = {name: value.to(dtype) for name, value in tensors.items()}
    after = {
        name: (value.float() + changed[name]).to(dtype) if name in changed else value
        for name, value in before.items()
    }
    for name, made in (("model", after), ("base", before)):
        shutil.copytree(assets() / "base", folder / name)
        save_file(made, folder / name / "model.safetensors", metadata={"format": "pt"})
        config = folder / name / "config.json"
        config.write_text(config.read_text().replace("float32", str(dtype).removeprefix("torch.")))
    return folder / "model", folder / "base"


def structures(kind: str) -> list[dict[str, float]]:
    """Stated and measured, of one copy in noise of several sizes, for one kind of task vector."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pair = (
            (assets() / "model", assets() / "base") if kind == "demo" else made_pair(folder, kind)
        )
        theta, base = map(layers, pair)
        task = {name: theta[name] - base[name] for name in theta}
        for noise in (0.01, 0.03, 0.1, 0.3, 1.0):
            setting = {"kappa": noise, "copies": 1, "dtype": "float32"}
            (result,), ((copy,),) = publish(folder / f"{noise}", [setting], pair=pair)
            seen = layers(copy)
            rows.append(
                {
                    "noise": noise,
                    "stated": result.exposure.one_copy,
                    "linear": best_linear([flat(seen) - flat(base)], flat(task)),
                    "singular values": singular_values(seen, base, task, noise),
                    "best singular values": best_shrinker(seen, base, task),
                    "rounding": rounding(seen, theta, task),
                }
            )
    return rows


def log_probabilities(path: Path) -> torch.Tensor:
    """Log p of every answer token's distribution, (tokens, V)."""
    tokenizer = load_tokenizer(path)
    rows = [encode(row, tokenizer, 128) for row in read_rows(assets() / "forget.jsonl")]
    batch = collate(rows, pad_id(tokenizer, len(tokenizer)))
    with torch.inference_mode():
        logits = (
            load_model(path)
            .model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            .logits
        )
    return logits[:, :-1][batch["labels"][:, 1:] != -100].double().log_softmax(-1)


def kl(truth: torch.Tensor, other: torch.Tensor) -> float:
    """KL(truth ‖ other), nats per token."""
    return float((truth.exp() * (truth - other)).sum(-1).mean())


def publish(
    folder: Path,
    settings: Sequence[Mapping[str, object]],
    seed: bytes = b"exposure benchmark",
    pair: tuple[Path, Path] | None = None,
) -> tuple[list[PerturbResult], list[list[Path]]]:
    """Rounds of one lineage on the demo model, or on another pair of model and base.

    The results, and by holder the copies' directories.
    """
    model, base = pair or (assets() / "model", assets() / "base")
    entropy = PreparedEntropy(sha256(seed).digest())
    results, held = [], {}
    for number, setting in enumerate(settings):
        handoff = folder / f"to-client-{number}"
        made = PerturbSettings(check="none", reparam="none", **setting)
        results.append(
            perturb(
                Located(model, None),
                Located(base, None),
                Target(handoff, folder / "secret"),
                made,
                entropy=entropy,
            )
        )
        for record in results[-1].handoffs:
            held.setdefault(record.holder, []).extend(
                Path(record.target) / copy.name for copy in record.copies
            )
    return results, list(held.values())


def one_draw(
    setting: Mapping[str, object], base: Tensors, task: Tensors, truth: torch.Tensor, base_kl: float
) -> dict[str, float]:
    """Stated and measured, of one copy and of all."""
    with tempfile.TemporaryDirectory() as folder:
        (result,), (copies,) = publish(Path(folder), [setting])
        record = result.handoffs[0]
        seen = [layers(path) for path in copies]
        differences = [flat(copy) - flat(base) for copy in seen]
        best = min(range(len(copies)), key=lambda k: abs(record.copies[k].coefficient))
        noise = hypot(record.kappa * record.copies[best].coefficient, record.offset)
        return {
            "stated one": result.exposure.one_copy,
            "linear one": best_linear([differences[best]], flat(task)),
            "singular values one": singular_values(seen[best], base, task, noise),
            "stated all": result.exposure.all_copies,
            "linear all": best_linear(differences, flat(task)),
            "KL share": kl(truth, log_probabilities(copies[best])) / base_kl,
            "exact entries": record.realised["recoverable"],
        }


def pools(
    settings: Sequence[Mapping[str, object]], base: Tensors, task: Tensors
) -> list[dict[str, float]]:
    """Stated and measured of those k holders who know most, for every k."""
    with tempfile.TemporaryDirectory() as folder:
        _, held = publish(Path(folder), settings)
        told = ledger(Lineage.read(Path(folder) / "secret").handoffs.values())
        differences = [[flat(layers(path)) - flat(base) for path in mine] for mine in held]
    return [
        {
            "holders": size,
            "stated": stated,
            "linear": min(
                best_linear([one for mine in group for one in mine], flat(task))
                for group in combinations(differences, size)
            ),
        }
        for size, stated in told.coalitions or ((1, told.all_together),)
    ]


def two_lineages(setting: Mapping[str, object], base: Tensors, task: Tensors) -> dict[str, float]:
    """Stated and measured of a holder of a copy of each of two lineages of the model.

    Their offsets are independent.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = [
            publish(Path(folder) / name, [setting], name.encode()) for name in ("first", "second")
        ]
        differences = [flat(layers(path)) - flat(base) for _, held in made for path in held[0]]
        noises = [noise_of(result.handoffs) for (result,), _ in made]
    return {
        "holders": 1,
        "stated": left(pooled(noises)),
        "linear": best_linear(differences, flat(task)),
    }


def digits(number: float) -> str:
    """Four decimals, or the size of what is next to nothing."""
    return f"{number:.4f}" if number >= 1e-3 else f"{number:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    theta, base = layers(assets() / "model"), layers(assets() / "base")
    task = {name: theta[name] - base[name] for name in theta}
    truth = log_probabilities(assets() / "model")
    base_kl = kl(truth, log_probabilities(assets() / "base"))
    draws = {
        name: one_draw(setting, base, task, truth, base_kl) for name, setting in SETTINGS.items()
    }
    several = {name: pools(settings, base, task) for name, settings in ROUNDS.items()}
    several["κ 0, offset 1, one copy of each of two lineages"] = [
        two_lineages(SETTINGS["κ 0, offset 1, one copy"], base, task)
    ]
    kinds = {kind: structures(kind) for kind in ("demo", "rank 8", "light bfloat16")}
    if options.json:
        print(
            json.dumps(
                {"base KL": base_kl, "settings": draws, "pooled": several, "structures": kinds}
            )
        )
        return
    print(f"KL of the base from the model: {base_kl:.3g} nats per token\n")
    print(f"{'':28}{'one copy leaves':^36}{'all copies leave':^21}{'KL, share':>11}{'exact':>9}")
    columns = ("at most", "linear", "sing. values", "at most", "linear", "of base's", "entries")
    print(
        f"{'setting':28}"
        + "".join(
            f"{column:>{width}}"
            for column, width in zip(columns, (10, 12, 14, 10, 11, 11, 9), strict=True)
        )
    )
    for name, row in draws.items():
        one = (
            f"{row['stated one']:10.4f}{row['linear one']:12.4f}{row['singular values one']:14.4f}"
        )
        everything = f"{row['stated all']:10.4f}{digits(row['linear all']):>11}"
        print(f"{name:28}{one}{everything}{row['KL share']:11.2g}{row['exact entries']:9.2%}")
    print(
        f"\n{'several holders or rounds':52}{'holders who pool':>17}{'at most':>10}{'linear':>10}"
    )
    for name, rows in several.items():
        for row in rows:
            print(f"{name:52}{row['holders']:17}{row['stated']:10.4f}{digits(row['linear']):>10}")
    names = ("stated", "linear", "singular values", "best singular values", "rounding")
    print(f"\n{'task vector':16}{'noise':>7}" + "".join(f"{name:>22}" for name in names))
    for kind, rows in kinds.items():
        for row in rows:
            print(f"{kind:16}{row['noise']:7g}" + "".join(f"{row[name]:22.4f}" for name in names))


if __name__ == "__main__":
    main()
