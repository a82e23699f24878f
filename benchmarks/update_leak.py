"""What counter-measures of the client hide from the server, and what they cost, on the demo model.

`python benchmarks/update_leak.py WORK [--seeds 0 1 2] [--only NAME …] [--steps]`.

Each seed deals the twenty people whom the demo's model knows: two to forget (40 rows), six whose
rows may be cover, four decoys (80 rows, neither forgotten nor trained on), eight to keep. The
recipe is the demo's (GradDiff, Adafactor, 8 epochs). Leaks are the areas under ROC curves of
`mpu audit update`'s attacks: forget rows against decoys, and with cover forget rows against cover
rows. Costs are mean answer probabilities: on the forget rows (lower is better) and on the decoys,
which are known rows that nobody wanted to lose (higher is better).

Changes of the finished update, per matrix: *top-k* keeps the largest entries, *rank* the largest
singular values, *clip* cuts entries at a multiple of the root mean square, *noise* adds white noise
of a multiple of it. The (ε, δ = 1e-5) beside noise is that of the Gaussian mechanism for the whole
forget set, with the update's own norm as sensitivity. *dp* is DP-SGD with unit (one row's gradient
clipped to 1, noise z): every forget row takes part once an epoch, so E epochs are μ-GDP with
μ = √E / z (Dong, Roth and Su 2022), without amplification; the retain rows get neither.

`--steps` measures instead how far N steps move a matrix (`audit/update/training_length.py`).
Results are kept in WORK/journal.jsonl. About 25 seconds for each seed and setting.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import mean
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from journal import Journal
from safetensors.torch import load_file, save_file
from scipy.optimize import brentq
from scipy.stats import norm

from mpu_cli.audit.update.area import area
from mpu_cli.audit.update.attacks import Machine
from mpu_cli.audit.update.membership import ATTACKS
from mpu_cli.cli.app import run
from mpu_cli.data.batches import collate
from mpu_cli.data.rows import read_rows
from mpu_cli.data.templates import TokenizedRow, encode
from mpu_cli.demo.demonstration import assets
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.logprobs import answer_nll, token_mean_nll
from mpu_cli.modeling.tokenizer import load_tokenizer
from mpu_cli.training import optimizers

MODEL = assets() / "model"
EPOCHS, BATCH, RATE, DELTA = 8, 8, 1e-4, 1e-5
PARTS = {"forget": 2, "cover": 6, "decoys": 4, "retain": 8}
ROWS_OF_A_PERSON = 20
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Deal:
    """The rows of one seed, as files below a directory."""

    directory: Path

    @classmethod
    def of(cls, seed: int, work: Path, parts: Mapping[str, int] = MappingProxyType(PARTS)) -> Deal:
        """Deal the people, so many to each part."""
        deal = cls(work / f"seed-{seed}")
        deal.directory.mkdir(parents=True, exist_ok=True)
        lines = [
            line
            for name in ("forget", "retain")
            for line in (assets() / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        people = [
            lines[start : start + ROWS_OF_A_PERSON]
            for start in range(0, len(lines), ROWS_OF_A_PERSON)
        ]
        Random(seed).shuffle(people)
        for part, count in parts.items():
            chosen, people = people[:count], people[count:]
            rows = [line for person in chosen for line in person]
            deal.file(part).write_text("\n".join(rows) + "\n", encoding="utf-8")
        return deal

    def file(self, part: str) -> Path:
        """The rows of a part."""
        return self.directory / f"{part}.jsonl"

    def beginning(self, part: str, rows: int) -> Path:
        """A file of the first rows of a part."""
        path = self.directory / f"{part}-{rows}.jsonl"
        lines = self.file(part).read_text(encoding="utf-8").splitlines()[:rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def unlearned(self, name: str, *options: object, forget: str = "forget") -> Path:
        """The model after `mpu unlearn` of the part `forget`, made once."""
        out = self.directory / name
        if not out.exists():
            data = ("--forget", self.file(forget), "--retain", self.file("retain"))
            arguments = ("--quiet", "unlearn", MODEL, *data, "--round", 1, "--out", out, "--json")
            heard = io.StringIO()
            with contextlib.redirect_stdout(heard):
                code = run([str(word) for word in (*arguments, "--dtype", "float32", *options)])
            if code:
                sys.exit(heard.getvalue())
        return out


def plain(deal: Deal, *options: object, name: str = "plain", epochs: int = EPOCHS) -> Path:
    """The demo's recipe."""
    return deal.unlearned(name, "--method", "GradDiff", "--epochs", epochs, *options)


def with_cover(times: int, epochs: int) -> Callable[[Deal, int], Path]:
    """The recipe with `times` as many cover rows as forget rows."""

    def make(deal: Deal, seed: int) -> Path:
        cover = deal.beginning("cover", times * PARTS["forget"] * ROWS_OF_A_PERSON)
        return plain(deal, "--cover", cover, name=f"cover-{times}-{epochs}", epochs=epochs)

    return make


def changed(
    change: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
) -> Callable[[Deal, int], Path]:
    """The plain recipe's update, each tensor replaced by `change(tensor, generator)`."""

    def make(deal: Deal, seed: int) -> Path:
        before = load_file(MODEL / "model.safetensors")
        after = load_file(plain(deal) / "model.safetensors")
        generator = torch.Generator().manual_seed(seed)
        moved = {
            name: before[name] + change(after[name] - before[name], generator)
            if not torch.equal(after[name], before[name])
            else before[name]
            for name in before
        }
        return written(moved, deal.directory / "changed")

    return make


def written(tensors: Tensors, directory: Path) -> Path:
    """A model directory with other weights."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(MODEL, directory)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def top(share: float) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    """Keep the largest entries."""

    def change(part: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        kept = max(1, round(share * part.numel()))
        least = part.abs().flatten().topk(kept).values[-1]
        return torch.where(part.abs() >= least, part, 0.0)

    return change


def rank(count: int) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    """Keep the largest singular values; vectors stay."""

    def change(part: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        if part.dim() < 2:
            return part
        left, values, right = torch.linalg.svd(part, full_matrices=False)
        return left[:, :count] * values[:count] @ right[:count]

    return change


def clip(times: float) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    """Cut entries at a multiple of the root mean square."""
    return lambda part, generator: part.clamp(*(sign * times * rms(part) for sign in (-1, 1)))


def noise(times: float) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    """Add white noise of a multiple of the root mean square."""
    return lambda part, generator: (
        part + times * rms(part) * torch.randn(part.shape, generator=generator)
    )


def rms(part: torch.Tensor) -> float:
    """The root mean square."""
    return float(part.square().mean().sqrt())


def private(z: float) -> Callable[[Deal, int], Path]:
    """DP-SGD's gradients (Abadi et al. 2016) of the forget rows under the recipe's optimizer."""

    def make(deal: Deal, seed: int) -> Path:
        model = load_model(MODEL).model
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = optimizers.get("adafactor").build(
            [{"params": list(trained.items()), "weight_decay": 0.0}], RATE, {}
        )
        generator, random = torch.Generator().manual_seed(seed), Random(seed)
        rows = {part: encoded(deal.file(part)) for part in ("forget", "retain")}
        for _ in range(EPOCHS):
            order = random.sample(range(len(rows["forget"])), len(rows["forget"]))
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                sums = {name: torch.zeros_like(p) for name, p in trained.items()}
                for index in batch:
                    one = gradient(model, trained, [rows["forget"][index]])
                    size = math.sqrt(sum(float(g.square().sum()) for g in one.values()))
                    for name, g in one.items():
                        sums[name].sub_(g / max(1.0, size))
                kept = gradient(model, trained, random.sample(rows["retain"], BATCH))
                for name, p in trained.items():
                    shake = z * torch.randn(p.shape, generator=generator)
                    p.grad = (sums[name] + shake) / BATCH + kept[name]
                torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        weights = load_file(MODEL / "model.safetensors")
        with torch.no_grad():
            weights |= {name: p.detach().clone() for name, p in trained.items()}
        return written(weights, deal.directory / "changed")

    return make


def gradient(model: Any, trained: dict[str, Any], rows: Sequence[TokenizedRow]) -> Tensors:
    """The gradient of the rows' mean loss."""
    loss = token_mean_nll(model, collate(rows, 0))
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


SETTINGS: dict[str, Callable[[Deal, int], Path]] = {
    "none": lambda deal, seed: plain(deal),
    "none, 4 epochs": lambda deal, seed: plain(deal, name="plain-4", epochs=4),
    "cover ×1, 4 epochs": with_cover(1, 4),
    "cover ×1": with_cover(1, EPOCHS),
    "cover ×3, 2 epochs": with_cover(3, 2),
    "cover ×3, 4 epochs": with_cover(3, 4),
    "top 10 %": changed(top(0.1)),
    "top 1 %": changed(top(0.01)),
    "rank 4": changed(rank(4)),
    "rank 1": changed(rank(1)),
    "clip 1 rms": changed(clip(1.0)),
    "clip .1 rms": changed(clip(0.1)),
    "noise 1 rms": changed(noise(1.0)),
    "noise 3 rms": changed(noise(3.0)),
    "noise 10 rms": changed(noise(10.0)),
    "dp z = .1": private(0.1),
    "dp z = 1": private(1.0),
    "dp z = 10": private(10.0),
}


def epsilon(mu: float) -> float:
    """ε at δ = 1e-5 of a μ-GDP mechanism (Dong, Roth and Su 2022, corollary 1)."""

    def excess(eps: float) -> float:
        second = math.exp(min(eps, 700.0) + float(norm.logcdf(-eps / mu - mu / 2)))
        return float(norm.cdf(-eps / mu + mu / 2)) - second - DELTA

    return float(brentq(excess, 0.0, mu * mu / 2 + 10 * mu + 10))


def guarantee(name: str, parameters: int) -> float | None:
    """ε of a setting; None where it has none."""
    if name.startswith("dp"):
        return epsilon(math.sqrt(EPOCHS) / float(name.split()[-1]))
    if name.startswith("noise"):  # σ = amount · ‖Δ‖ / √N, sensitivity ‖Δ‖
        return epsilon(math.sqrt(parameters) / float(name.split()[1]))
    return None


def encoded(file: Path) -> list[TokenizedRow]:
    """The rows as tokens."""
    tokenizer = load_tokenizer(MODEL)
    return [encode(row, tokenizer, 128) for row in read_rows(file)]


def measure(deal: Deal, name: str, seed: int) -> dict[str, Any]:
    """Leak and cost of one setting."""
    after = SETTINGS[name](deal, seed)
    sets = {part: encoded(deal.file(part)) for part in ("forget", "decoys")}
    if name.startswith("cover"):
        rows = int(name[7]) * PARTS["forget"] * ROWS_OF_A_PERSON
        sets["cover"] = encoded(deal.beginning("cover", rows))
    everything = [row for part in sets.values() for row in part]
    ends = np.cumsum([len(part) for part in sets.values()])[:-1]
    machine = Machine("cpu", 0, lambda *_: None)
    result: dict[str, Any] = {}
    for key, (attack, _) in ATTACKS.items():
        scores = dict(
            zip(sets, np.split(attack(MODEL, after, everything, machine), ends), strict=True)
        )
        half = len(scores["decoys"]) // 2
        result[key] = area(scores["forget"], scores["decoys"]).content()
        result[f"{key} control"] = area(scores["decoys"][:half], scores["decoys"][half:]).value
        if "cover" in scores:
            both = np.concatenate([scores["forget"], scores["cover"]])
            result[f"{key} cover"] = area(scores["forget"], scores["cover"]).content()
            result[f"{key} both"] = area(both, scores["decoys"]).content()
    for place, path in (("before", MODEL), ("after", after)):
        model = load_model(path).model
        for part, members in sets.items():
            found = answer_nll(model, members, 16, 0)
            result[f"{part} {place}"] = mean(math.exp(-nll / n) for nll, n in found)
    return result


def show(results: dict[str, list[dict[str, Any]]], parameters: int) -> None:
    """Means over the seeds."""
    print(
        f"{'':<20}{'AUC forget : decoys':>24}{'forget : cover':>18}{'probability':>22}{'ε':>9}\n"
        f"{'':<20}{'loss':>12}{'gradient':>12}{'loss':>9}{'gradient':>9}{'forget':>11}{'kept':>11}"
    )
    for name, found in results.items():
        cover = [
            f"{mean(one[f'{key} cover']['value'] for one in found):.3f}"
            if f"{key} cover" in found[0]
            else "–"
            for key in ATTACKS
        ]
        loss, cosine = (mean(one[key]["value"] for one in found) for key in ATTACKS)
        eps = guarantee(name, parameters)
        print(
            f"{name:<20}{loss:>12.3f}{cosine:>12.3f}{cover[0]:>9}{cover[1]:>9}"
            f"{mean(one['forget after'] for one in found):>11.3f}"
            f"{mean(one['decoys after'] for one in found):>11.3f}"
            f"{'–' if eps is None else f'{eps:.3g}':>9}",
            flush=True,
        )


def show_steps(deal: Deal) -> None:
    """Print the exponent p of rate · N^p for methods, optimizers and lengths."""
    before, powers = load_file(MODEL / "model.safetensors"), []
    for optimizer in ("adafactor", "adamw"):
        for method in ("GradDiff", "NPO", "SimNPO"):
            for epochs in (2, 5, 12):
                options = ("--method", method, "--optimizer", optimizer, "--epochs", epochs)
                out = deal.unlearned(f"{optimizer}-{method}-{epochs}", *options)
                after = load_file(out / "model.safetensors")
                sizes = [
                    rms(after[name] - before[name])
                    for name in before
                    if before[name].dim() > 1 and ".layers." in name
                ]
                steps = epochs * PARTS["forget"] * ROWS_OF_A_PERSON // BATCH
                powers.append(math.log(float(np.median(sizes)) / RATE) / math.log(steps))
                print(f"{optimizer} {method} {steps} steps: p = {powers[-1]:.2f}", flush=True)
    print(f"median {np.median(powers):.2f}, from {min(powers):.2f} to {max(powers):.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    if options.steps:
        show_steps(Deal.of(options.seeds[0], options.work))
        return
    journal = Journal(options.work / "journal.jsonl")
    results: dict[str, list[dict[str, Any]]] = {}
    for name in options.only:
        for seed in options.seeds:
            deal = Deal.of(seed, options.work)
            key = {"setting": name, "seed": seed}
            results.setdefault(name, []).append(
                journal.get(key, lambda: measure(deal, name, seed))  # noqa: B023 - called at once
            )
    parameters = sum(
        part.numel()
        for name, part in load_file(MODEL / "model.safetensors").items()
        if ".layers." in name
    )
    if options.json:
        print(json.dumps(results))
    else:
        show(results, parameters)


if __name__ == "__main__":
    main()
