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
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from journal import Journal
from offset_levels import attack_all, layer_of, weights_of
from offset_results import printed
from offset_shape import KINDS, Moments, Shape, drawn, shape_of
from offset_sibling import sibling
from one_round import say
from slopes import ASSETS
from torch import Tensor

from mpu_cli.client import methods
from mpu_cli.client.recipe import Recipe
from mpu_cli.client.row_order import row_sampling
from mpu_cli.client.training_rows import RowEncoder
from mpu_cli.data.batches import PairSampler, collate, pad_id
from mpu_cli.data.rows import read_rows
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.logprobs import labelled_predictions, token_mean_kl
from mpu_cli.modeling.tokenizer import quiet_transformers
from mpu_cli.training import reference
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.trainer import UnlearningTrainer
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
        self.settings = self._settings(options.steps)
        self.surrogate = self._settings(options.own_steps or options.steps)
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
        half = min((options.own_steps or options.steps) * options.batch_size, len(own) // 2)
        self.filler = pad_id(encoder.tokenizer, encoder.vocabulary)
        self.sets = self._sets(forget[:size], retain)
        self.own = self._sets(own[-half:], own[:-half])
        self.probe = collate(forget[:KL_ROWS], self.filler)

    def _settings(self, steps: int) -> TrainingSettings:
        return TrainingSettings(
            learning_rate=self.rate,
            epochs=steps * self.options.batch_size,  # enough for any number of rows
            max_steps=steps,
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

    def train(
        self, method: str, sets: TrainingSets, settings: TrainingSettings
    ) -> dict[str, Tensor]:
        """The update of the weights that are in the model now."""
        before = {
            name: each.detach().clone()
            for name, each in self.model.named_parameters()
            if each.requires_grad
        }
        found = methods.get(method)
        parameters = found.parse([])
        # As training.trainer.train, without its measurement of answers before and after.
        pairs = reference.prepare(self.model, found.inputs_with(parameters), sets, settings)
        order = PairSampler(settings.seed, pairs.n_forget, pairs.n_retain, sets.sampling)
        with quiet_transformers():
            UnlearningTrainer(
                self.model, found.bind(parameters), pairs, order, settings, RunContext("cpu")
            ).run(None)
        pairs.close()
        self.model.eval()
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


def shapes_of(study: Study) -> list[Shape]:
    """Every matrix's shape, kept in --work."""
    kept = study.options.work / "shapes.pt"
    if kept.exists():
        found: list[Shape] = torch.load(kept, weights_only=False)  # our own file
        return found
    study.put({})
    moments = Moments(study.model)
    study.train(SURROGATE, study.own, study.surrogate)
    moments.close()
    base = weights_of(study.options.base)
    task = {name: study.theta[name] - base[name] for name in moments.inputs}
    rms = layer_rms(task)
    shapes = [
        shape_of(name, each, moments, rms[name.split(".layers.")[0], layer_of(name)])
        for name, each in task.items()
    ]
    torch.save(shapes, kept)
    return shapes


def layer_rms(task: dict[str, Tensor]) -> dict[tuple[str, str], float]:
    """Root mean square over the matrices of each layer, by (prefix, number)."""
    sums: dict[tuple[str, str], list[float]] = {}
    for name, each in task.items():
        total = sums.setdefault((name.split(".layers.")[0], layer_of(name)), [0.0, 0.0])
        total[0] += float(each.double().square().sum())
        total[1] += each.numel()
    return {key: math.sqrt(square / count) for key, (square, count) in sums.items()}


def noise_free(study: Study, method: str) -> dict[str, Tensor]:
    """Δ(θ), kept in --work."""
    kept = study.options.work / f"noise-free-{method}.pt"
    if kept.exists():
        found: dict[str, Tensor] = torch.load(kept, weights_only=True)
        return found
    study.put({})
    plain = study.train(method, study.sets, study.settings)
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
    update = study.train(method, study.sets, study.settings)
    off = sum(float((update[name] - each).double().square().sum()) for name, each in plain.items())
    return {"error": math.sqrt(off / norm2(plain.values())), "KL share": share}


def norm2(tensors: Iterable[Tensor]) -> float:
    """The squared norm of all entries."""
    return sum(float(each.double().square().sum()) for each in tensors)


def run(options: argparse.Namespace) -> None:
    """The study, as far as --work does not hold it."""
    options.work.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.work / "results.jsonl")
    study = Study(options)
    shapes = shapes_of(study)
    if options.shapes_only:
        return
    levels = attack_all(options, journal, shapes)
    if options.attacks_only:
        return
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
                sys.exit("--limit: the rest another time")
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
    study.add_argument("--own-steps", type=int, help="of the surrogate run (default: --steps)")
    study.add_argument("--rate", type=float, help="learning rate (default: mpu unlearn's)")
    study.add_argument(
        "--every", type=int, default=1, help="attack only the matrices of each such layer"
    )
    study.add_argument("--attack-draws", type=int, help="draws that are attacked (default: all)")
    study.add_argument("--limit", type=float, help="seconds after which no run is begun")
    study.add_argument("--shapes-only", action="store_true", help="end after the surrogate run")
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
        if options.shapes_only:
            return
    print(printed(options.work))


if __name__ == "__main__":
    main()
