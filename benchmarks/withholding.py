"""What does a handoff of the lower layers hide? `python benchmarks/withholding.py --out FILE`.

A client that got θ's embeddings and its layers 0 to L (`mpu perturb --upto L`) has the base too. It
*stitches*: θ's layers up to L, the base's above. Then it *tunes* the layers above L on rows of its
own, which θ knows and which are not in the forget set: AdamW, a few rates; the rate and the epoch
are those with the lowest loss on a fifth of these rows. Two controls: L = none is a client that got
nothing and tunes the whole base on the same rows; L = embeddings got the embeddings, which leave
exactly in a handoff of the whole model too, and no layer.

Measured on rows of subjects that the client has no row of: mean KL(θ‖model) per answer token, and
the answer probability. *Regained* is the share of θ's gap over the base that is gone, of KL or of
probability; it is negative where a model is further from θ than the base is. *Probe* is the area
under the curve of a linear classifier on states after layer L, mean over an answer's tokens, that
is to tell right answers from wrong ones of subjects that it was not trained on (θ's states, and the
base's): it needs rows with paraphrased_answer and perturbed_answer.

By default the demo's model and rows; --model, --base, --forget, --retain for any others, where
--group rows in a row are about one subject. The seed draws the subjects and the order of the rows.
FILE is a CSV, a line a model and a number of rows; an interrupted run goes on. `--from FILE` only
prints: means over the seeds with 95 % t intervals. A minute a seed on one core for the demo's.
What such a copy unlearns: withheld_unlearning.py.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from measuring import describe, machine
from one_round import say
from slopes import ASSETS
from withholding_tables import EMBEDDINGS, KEYS, NOTHING, Row, read, tables, write

from mpu_cli.data.batches import collate
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.evaluation.questions import RETAIN, QuestionSet, read_questions
from mpu_cli.evaluation.texts import Encoder
from mpu_cli.modeling.hidden import decoder_layers, labelled_hidden
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.logprobs import labelled_predictions, token_mean_nll
from mpu_cli.modeling.tokenizer import load_tokenizer, quiet_transformers


def sent(model: Any, layer: int) -> set[int]:
    """The ids of the parameters that a handoff up to this layer holds."""
    parts = [model.get_input_embeddings(), *decoder_layers(model)[: max(layer + 1, 0)]]
    return set() if layer == NOTHING else {id(p) for part in parts for p in part.parameters()}


def stitch(model: Any, theta: Any, base: Any, layer: int) -> list[Any]:
    """Make `model` θ up to a layer and the base above; its parameters that were not sent."""
    held = sent(model, layer)
    with torch.no_grad():
        for mine, new, old in zip(*(m.parameters() for m in (model, theta, base)), strict=True):
            mine.copy_(new if id(mine) in held else old)
    return [p for p in model.parameters() if id(p) not in held and p.requires_grad]


def unsent_share(theta: Any, base: Any, layer: int) -> float:
    """The share of ‖θ − base‖² above a layer."""
    held, inside, total = sent(theta, layer), 0.0, 0.0
    for new, old in zip(theta.parameters(), base.parameters(), strict=True):
        square = float((new.detach().double() - old.detach().double()).square().sum())
        total += square
        inside += square * (id(new) in held)
    return 1 - inside / total


@torch.no_grad()
def says(model: Any, rows: Sequence[TokenizedRow]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Log-probabilities (n, V) of every answer, and its tokens (n,)."""
    answers = [labelled_predictions(model, collate([row], 0)) for row in rows]
    return [(logits.log_softmax(-1), tokens) for logits, tokens in answers]


Said = list[tuple[torch.Tensor, torch.Tensor]]


def probability(said: Said) -> float:
    """The mean answer probability."""
    return fmean(float(p.gather(1, at[:, None]).mean().exp()) for p, at in said)


def divergence(theta: Said, said: Said) -> float:
    """Mean KL(θ‖model) over answer tokens."""
    pairs = zip(theta, said, strict=True)
    return float(torch.cat([(p.exp() * (p - q)).sum(-1) for (p, _), (q, _) in pairs]).mean())


def tune(model: Any, trained: list[Any], own: list[TokenizedRow], options: Any, seed: int) -> float:
    """Train these parameters on all rows but a fifth, which chooses the epoch; the rate chosen."""
    draw = random.Random(seed)
    rows = draw.sample(own, len(own))
    check, rows = rows[: len(rows) // 5], rows[len(rows) // 5 :]
    start = [p.detach().clone() for p in trained]
    best, kept, chosen = float("inf"), start, 0.0
    for rate in options.rates:
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
        for _ in range(options.epochs):
            order, size = draw.sample(rows, len(rows)), options.batch_size
            for at in range(0, len(order), size):
                optimizer.zero_grad()
                torch.autograd.backward(
                    token_mean_nll(model, collate(order[at : at + size], 0)), inputs=trained
                )
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
            with torch.no_grad():
                loss = fmean(float(token_mean_nll(model, collate([row], 0))) for row in check)
            if loss < best:
                best, chosen, kept = loss, rate, [p.detach().clone() for p in trained]
            elif loss > 1.5 * best:
                break
        _put(trained, start)
    _put(trained, kept)
    return chosen


def _put(parameters: list[Any], values: list[Any]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def probe(model: Any, layer: int, own: list[Any], others: list[Any]) -> float:
    """Area under the curve of a linear classifier of (row, is right) pairs, ridge 1."""

    def states(pairs: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            means = [labelled_hidden(model, collate([row], 0), layer).mean(0) for row, _ in pairs]
        return torch.stack(means).double(), torch.tensor([right for _, right in pairs]).double()

    (x, y), (new, truth) = states(own), states(others)
    mean, scale = x.mean(0), x.std(0) + 1e-8
    x, new = (x - mean) / scale, (new - mean) / scale
    ridge = x.T @ x + len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    score = new @ torch.linalg.solve(ridge, x.T @ (y - y.mean()))
    wins = (score[truth == 1][:, None] - score[truth == 0][None]).sign()
    return float((wins.mean() + 1) / 2)


class Bench:
    """θ, the base, and a third model to stitch."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.theta, self.base = load_model(options.model).model, load_model(options.base).model
        self.model = load_model(options.base).model
        self.encoder = Encoder(load_tokenizer(options.model), self.theta.config, None)
        self.known: QuestionSet = read_questions(RETAIN, RETAIN, options.retain)
        self.size = len(read_questions("forget", RETAIN, options.forget).questions)

    def encoded(self, numbers: list[int], variant: str) -> list[TokenizedRow]:
        """These rows' texts; of wrong answers the first."""
        rows = [self.known.questions[number] for number in numbers]
        found = [self.encoder._text(RETAIN, 0, variant, one.variants(variant)[0]) for one in rows]
        return [text.encoded for text in found]

    def measure(self, seed: int, known: set[tuple[int, ...]]) -> Iterator[Row]:
        """The rows of a seed that are not known."""
        draw = random.Random(f"withholding/{seed}")
        groups = range(0, len(self.known.questions), self.options.group)
        order = draw.sample(groups, len(groups))
        subjects = [list(range(at, at + self.options.group)) for at in order]
        count = self.options.held_out
        others = [number for rows in subjects[:count] for number in rows]
        others = draw.sample(others, min(len(others), self.options.measured_rows))
        own = [number for rows in subjects[count:] for number in rows]
        texts, mine = self.encoded(others, "answer"), self.encoded(own, "answer")
        said, base = says(self.theta, texts), says(self.base, texts)
        fixed: Row = {"kl_base": divergence(said, base), "base": probability(base)}
        fixed["theta"] = probability(said)
        for layer in ([NOTHING, EMBEDDINGS] if self.options.control else []) + self.options.layers:
            for taught in dict.fromkeys(
                min(times * self.size, len(mine)) for times in (0, *self.options.times)
            ):
                if (seed, layer, taught) in known:
                    continue
                trained = stitch(self.model, self.theta, self.base, layer)
                row: Row = dict(zip(KEYS, (seed, layer, taught), strict=True)) | fixed
                if taught:
                    row["rate"] = tune(self.model, trained, mine[:taught], self.options, seed)
                else:
                    row |= self.shares(layer, own, others)
                found = says(self.model, texts)
                yield row | {"kl": divergence(said, found), "probability": probability(found)}

    def shares(self, layer: int, own: list[int], others: list[int]) -> Row:
        """What does not depend on tuning."""
        row: Row = {"unsent": unsent_share(self.theta, self.base, layer)}
        own = own[: self.options.probe_rows]
        if layer < 0 or not own or not self.known.questions[0].perturbed_answers:
            return row
        kinds = (("paraphrased answer", True), ("perturbed answers", False))
        taught, new = (
            [(text, right) for kind, right in kinds for text in self.encoded(part, kind)]
            for part in (own, others)
        )
        row["probe"] = probe(self.theta, layer, taught, new)
        return row | {"probe_base": probe(self.base, layer, taught, new)}


def main() -> None:
    """Measure, unless --from is given, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ASSETS / "model")
    parser.add_argument("--base", type=Path, default=ASSETS / "base")
    parser.add_argument("--forget", type=Path, default=ASSETS / "forget.jsonl")
    parser.add_argument("--retain", type=Path, default=ASSETS / "retain.jsonl", help="θ knows them")
    parser.add_argument("--group", type=int, default=20, help="rows of one subject")
    parser.add_argument("--held-out", type=int, default=4, help="subjects of others")
    parser.add_argument("--measured-rows", type=int, default=80, help="of these, at most")
    parser.add_argument(
        "--control",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="L = none, embeddings",
    )
    parser.add_argument("--probe-rows", type=int, default=280, help="taught to a probe; 0: none")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--times", type=int, nargs="*", default=[1, 10], help="forget set's size")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    files = parser.add_mutually_exclusive_group(required=True)
    files.add_argument("--out", type=Path, help="CSV to add to")
    files.add_argument("--from", dest="source", type=Path, help="CSV to print")
    options = parser.parse_args()
    rows = read(path) if (path := options.source or options.out).exists() else []
    if options.out:
        say(describe(machine()))
        torch.set_num_threads(1)
        quiet_transformers()
        bench = Bench(options)
        for seed in range(options.seeds):
            known = {tuple(int(row[key]) for key in KEYS) for row in rows}
            for row in bench.measure(seed, known):
                rows.append(row)
                say(str({k: round(v, 4) for k, v in row.items()}))
                write(options.out, rows)
    print(tables(rows))


if __name__ == "__main__":
    main()
