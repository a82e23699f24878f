"""Does an offset shaped by the training's sensitivity cost less than a white one?

structured_offset.py sibling   Fine-tune --base on every third row of --taught; goes on after an
                               epoch that was completed.
structured_offset.py study     Shape, attack and train; what --work holds already is not run again.
structured_offset.py table     Print what --work holds.

One copy, θ + Ξ, no reparameterization (a client with the base undoes it). For each kind of offset
and each --leaks, the offset's size is set so that the worst attack on draw 0 leaves that share of
the task vector (norms over the matrices of the decoder layers); then every draw is attacked and
trained. The error is ‖Δ(θ + Ξ) − Δ(θ)‖ / ‖Δ(θ)‖ over all trained parameters. The shape's eigenbasis
comes from a GradDiff run on --own rows, which the client does not have, whatever the client's
method. Without --own, the last 160 rows of --retain are the server's own. By default the demo's
model, base and rows: two minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from journal import Journal
from offset_attacks import ATTACKS, SIBLING_ATTACKS, Seen
from offset_results import printed
from offset_shape import KINDS, Moments, Shape, drawn, level_for, shape_of
from offset_sibling import sibling
from one_round import say
from slopes import ASSETS
from torch import Tensor

from mpu_cli.client import methods
from mpu_cli.client.recipe import Recipe
from mpu_cli.client.row_order import row_sampling
from mpu_cli.client.training_rows import RowEncoder
from mpu_cli.data.batches import collate, pad_id
from mpu_cli.data.rows import read_rows
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.logprobs import labelled_predictions, token_mean_kl
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.trainer import train
from mpu_cli.training.training_sets import TrainingSets
from mpu_cli.training.usual_rate import rate_for

OWN = 160
SURROGATE = "GradDiff"
KL_ROWS = 8


class Study:
    """Model, rows and settings of one command."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Load θ and the rows."""
        self.options = options
        self.model = load_model(options.model).model
        self.theta = {name: each.detach().clone() for name, each in self.model.named_parameters()}
        self.rate = options.rate or rate_for(self.model.config.to_dict(), options.model)
        self.settings = self._settings(options.steps * options.batch_size)
        recipe = Recipe.of_files(SURROGATE, {}, self.settings, options.forget, options.retain)
        encoder = RowEncoder(options.model, recipe)
        forget, retain = (
            encoder.encoded(read_rows(path), path.stem) for path in (options.forget, options.retain)
        )
        if options.own is None:
            retain, own = retain[:-OWN], retain[-OWN:]
        else:
            own = encoder.encoded(read_rows(options.own), "own")
        size = options.steps * options.batch_size
        half = min(size, len(own) // 2)
        self.filler = pad_id(encoder.tokenizer, encoder.vocabulary)
        self.sets = self._sets(forget[:size], retain)
        self.own = self._sets(own[-half:], own[:-half])
        self.probe = collate(forget[:KL_ROWS], self.filler)

    def _settings(self, size: int) -> TrainingSettings:
        return TrainingSettings(
            learning_rate=self.rate,
            epochs=size,
            max_steps=self.options.steps,
            batch_size=self.options.batch_size,
            max_length=self.options.max_length,
            round_number=1,
            device="cpu",
        )

    def _sets(self, forget: Any, retain: Any) -> TrainingSets:
        return TrainingSets(forget, retain, self.filler, sampling=row_sampling(self.settings))

    @torch.no_grad()
    def put(self, offset: dict[str, Tensor]) -> None:
        """Θ + Ξ into the model."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(self.theta[name] + offset.get(name, 0))

    def train(self, method: str, sets: TrainingSets) -> dict[str, Tensor]:
        """The update of the weights that are in the model now."""
        before = {
            name: each.detach().clone()
            for name, each in self.model.named_parameters()
            if each.requires_grad
        }
        found = methods.get(method)
        parameters = found.parse([])
        train(
            self.model,
            found.bind(parameters),
            found.inputs_with(parameters),
            sets,
            self.settings,
            RunContext("cpu"),
        )
        now = dict(self.model.named_parameters())
        return {name: now[name].detach() - each for name, each in before.items()}

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Of the probe's labelled tokens, (N, V)."""
        return labelled_predictions(self.model, self.probe)[0]

    @torch.no_grad()
    def kl(self, truth: Tensor) -> float:
        """KL(θ ‖ the model now) on the probe, nats per token."""
        return float(token_mean_kl(self.model, self.probe, truth))


def weights_of(path: Path) -> dict[str, Tensor]:
    """All parameters of a model directory."""
    return {name: each.detach() for name, each in load_model(path).model.named_parameters()}


def shapes_of(study: Study) -> tuple[list[Shape], list[Tensor] | None]:
    """Every matrix's shape and the sibling's task vector in its basis, kept in --work."""
    kept = study.options.work / "shapes.pt"
    if kept.exists():
        found = torch.load(kept, weights_only=False)
        return found["shapes"], found["siblings"]
    study.put({})
    moments = Moments(study.model)
    study.train(SURROGATE, study.own)
    moments.close()
    base = weights_of(study.options.base)
    rms = layer_rms({name: study.theta[name] - base[name] for name in moments.inputs})
    shapes = [
        shape_of(
            name, study.theta[name] - base[name], moments, rms[name.split(".layers.")[0], layer]
        )
        for name, layer in ((name, layer_of(name)) for name in moments.inputs)
    ]
    siblings = None
    if study.options.sibling is not None:
        taught = weights_of(study.options.sibling)
        siblings = [each.into_basis(taught[each.name] - base[each.name]) for each in shapes]
    torch.save({"shapes": shapes, "siblings": siblings}, kept)
    return shapes, siblings


def layer_of(name: str) -> str:
    """The number of the layer in a parameter's name."""
    return name.split(".layers.")[1].split(".")[0]


def layer_rms(task: dict[str, Tensor]) -> dict[tuple[str, str], float]:
    """Root mean square over the matrices of each layer, by (prefix, number)."""
    sums: dict[tuple[str, str], list[float]] = {}
    for name, each in task.items():
        total = sums.setdefault((name.split(".layers.")[0], layer_of(name)), [0.0, 0.0])
        total[0] += float(each.double().square().sum())
        total[1] += each.numel()
    return {key: math.sqrt(square / count) for key, (square, count) in sums.items()}


def attacked(
    kind: str,
    level: float,
    draw: int,
    shapes: Sequence[Shape],
    siblings: Sequence[Tensor] | None,
) -> dict[str, float]:
    """What every attack leaves, by its name, relative to the task vector of these matrices."""
    known = {**ATTACKS, **(SIBLING_ATTACKS if siblings is not None else {})}
    lost, total = dict.fromkeys(known, 0.0), 0.0
    for number, shape in enumerate(shapes):
        unit = float(shape.task.square().mean().sqrt())  # so that no square underflows
        noise = KINDS[kind](shape, level)
        seen = Seen(
            (shape.task + drawn(shape, noise, draw)) / unit,
            noise / unit**2,
            shape.energy / unit**2,
            None if siblings is None else siblings[number] / unit,
        )
        for name, attack in known.items():
            lost[name] += float((attack(seen) * unit - shape.task).double().square().sum())
        total += float(shape.task.double().square().sum())
    return {name: math.sqrt(value / total) for name, value in lost.items()}


def calibrated(
    kind: str, leak: float, shapes: Sequence[Shape], siblings: Sequence[Tensor] | None
) -> dict[str, Any]:
    """The level at which the worst attack on draw 0 leaves `leak`, within 1 %."""
    asked = leak
    for _ in range(5):
        level = level_for(kind, shapes, asked)
        found = attacked(kind, level, 0, shapes, siblings)
        worst = min(found.values())
        if abs(worst / leak - 1) < 0.01:
            break
        odds = [each**2 / (1 - each**2) for each in (asked, leak, worst)]
        wanted = odds[0] * odds[1] / odds[2]
        asked = math.sqrt(wanted / (1 + wanted))
    return {"level": level, "asked": asked, "attacks": found}


def noise_free(study: Study, method: str) -> dict[str, Tensor]:
    """Δ(θ), kept in --work."""
    kept = study.options.work / f"noise-free-{method}.pt"
    if kept.exists():
        found: dict[str, Tensor] = torch.load(kept, weights_only=True)
        return found
    study.put({})
    plain = study.train(method, study.sets)
    torch.save(plain, kept)
    return plain


def trained(
    study: Study,
    method: str,
    offset: dict[str, Tensor],
    plain: dict[str, Tensor],
    truth: Tensor,
    base_kl: float,
) -> dict[str, float]:
    """Error of the update and share of the base's KL, of one copy."""
    study.put(offset)
    share = study.kl(truth) / base_kl
    update = study.train(method, study.sets)
    off = sum(float((update[name] - each).double().square().sum()) for name, each in plain.items())
    return {"error": math.sqrt(off / norm2(plain.values())), "KL share": share}


def norm2(tensors: Iterable[Tensor]) -> float:
    """The squared norm of all entries."""
    return sum(float(each.double().square().sum()) for each in tensors)


def attack_all(
    options: argparse.Namespace,
    journal: Journal,
    shapes: Sequence[Shape],
    siblings: Sequence[Tensor] | None,
) -> dict[tuple[str, float], float]:
    """Levels by kind and leak; every draw is attacked at them."""
    some = [i for i in range(len(shapes)) if not int(layer_of(shapes[i].name)) % options.every]
    part = [shapes[i] for i in some]
    their = None if siblings is None else [siblings[i] for i in some]
    levels = {}
    for leak, kind in product(options.leaks, options.kinds):
        key = {"kind": kind, "leak": leak}
        found = journal.get({"what": "level", **key}, partial(calibrated, kind, leak, part, their))
        levels[kind, leak] = found["level"]
        for draw in range(options.attack_draws):
            journal.get(
                {"what": "attack", "draw": draw, **key},
                (lambda attacks=found["attacks"]: attacks)
                if draw == 0
                else partial(attacked, kind, found["level"], draw, part, their),
            )
        say(f"{kind} {leak:g}: level {found['level']:.3g}, worst {min(found['attacks'].values())}")
    return levels


def run(options: argparse.Namespace) -> None:
    """The study, as far as --work does not hold it."""
    options.work.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.work / "results.jsonl")
    study = Study(options)
    shapes, siblings = shapes_of(study)
    levels = attack_all(options, journal, shapes, siblings)
    if options.attacks_only:
        return
    del siblings
    study.put({})
    truth = study.logits()
    base = weights_of(options.base)
    study.put({name: base[name] - each for name, each in study.theta.items()})
    base_kl = study.kl(truth)
    del base

    def one(
        method: str, plain: dict[str, Tensor], kind: str, leak: float, draw: int
    ) -> dict[str, float]:
        level = levels[kind, leak]
        offset = {
            each.name: each.from_basis(drawn(each, KINDS[kind](each, level), draw))
            for each in shapes
        }
        return trained(study, method, offset, plain, truth, base_kl)

    for method in options.methods:
        order = product(range(options.draws), options.leaks, options.kinds)
        wanted = [
            {"what": "update", "method": method, "kind": kind, "leak": leak, "draw": draw}
            for draw, leak, kind in order
        ]
        if all(journal.has(key) for key in wanted):
            continue
        plain = noise_free(study, method)
        size = math.sqrt(norm2(plain.values()) / norm2(study.theta[name] for name in plain))
        say(f"{method}: the noise-free update is {size:.2%} of the weights")
        for key in wanted:
            if time.monotonic() > options.ends:
                say("--limit: the rest another time")
                return
            measure = partial(one, method, plain, key["kind"], key["leak"], key["draw"])
            found = journal.get(key, measure)
            say(f"{method}, {key['kind']}, leak {key['leak']:g}, draw {key['draw']}: {found}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    teach, study, shown = (commands.add_parser(name) for name in ("sibling", "study", "table"))
    for each in (study, shown):
        each.add_argument("--work", type=Path, required=True)
    for each in (teach, study):
        each.add_argument("--base", type=Path, default=ASSETS / "base")
        each.add_argument("--max-length", type=int)
    teach.add_argument(
        "--taught",
        type=Path,
        nargs="+",
        default=[ASSETS / "forget.jsonl", ASSETS / "retain.jsonl"],
        help="the rows that θ was fine-tuned on",
    )
    teach.add_argument("--out", type=Path, required=True)
    teach.add_argument("--rate", type=float, default=1e-3)
    teach.add_argument("--epochs", type=int, default=20)
    teach.add_argument("--batch-size", type=int, default=16)
    teach.add_argument("--cosine", action=argparse.BooleanOptionalAction, default=True)
    teach.add_argument("--one-epoch", action="store_true", help="end after each epoch")
    study.add_argument("--model", type=Path, default=ASSETS / "model")
    study.add_argument("--forget", type=Path, default=ASSETS / "forget.jsonl")
    study.add_argument("--retain", type=Path, default=ASSETS / "retain.jsonl")
    study.add_argument("--own", type=Path, help="rows of the server for the surrogate run")
    study.add_argument("--sibling", type=Path, help="a model that `sibling` wrote")
    study.add_argument("--methods", nargs="+", default=["GradDiff", "NPO"])
    study.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    study.add_argument("--leaks", nargs="+", type=float, default=[0.1, 0.3, 0.7])
    study.add_argument("--draws", type=int, default=3)
    study.add_argument("--steps", type=int, default=10)
    study.add_argument("--batch-size", type=int, default=4)
    study.add_argument("--rate", type=float, help="learning rate (default: mpu unlearn's)")
    study.add_argument(
        "--every", type=int, default=1, help="attack only the matrices of each such layer"
    )
    study.add_argument("--attack-draws", type=int, help="draws that are attacked (default: all)")
    study.add_argument("--limit", type=float, help="seconds after which no run is begun")
    study.add_argument("--attacks-only", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    if options.what == "study":
        options.ends = time.monotonic() + (options.limit or math.inf)
        options.attack_draws = options.attack_draws or options.draws
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if options.what == "sibling":
        sibling(options)
        return
    if options.what == "study":
        run(options)
    print(printed(options.work))


if __name__ == "__main__":
    main()
