"""How the error of the aggregated update grows with the noise.

`python benchmarks/slopes.py [--optimizer sgd] [--json]`.

Runs the protocol end to end (perturb → train every copy → diff → aggregate) on the demo's model and
data with a plain training loop, and prints ‖Δ̄ − Δ‖ / ‖Δ‖ against the noise-free Δ, median over
draws, with log-log slopes. The claims (docs/design.md, Promises), for offset 0 and a smooth
optimizer: slope about 1 with one copy, 2 with harmonic denoising, m with extrapolation. With an
offset the slope is always 1 (--offset is c relative to κ). About 80 seconds on one core.

Norm weights stay as they are unless --train-norms is given. With --memorised the rows have the
exact words that the model has memorised: its loss is then so sharply curved that κ = .3 (noise of
12 % of the weights at α = 2) is outside the range of the second-order claim (docs/log.md).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from hashlib import sha256
from math import inf, log
from pathlib import Path
from statistics import median

import torch

from mpu_cli.checkpoint.dtypes import read_tensor
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.client.delta import DeltaFormat
from mpu_cli.client.diff import diff
from mpu_cli.server.aggregation.aggregate import aggregate
from mpu_cli.server.aggregation.settings import AggregateSettings
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.server.secrets.secret import PreparedEntropy
from mpu_cli.training import optimizers

ASSETS = Path(__file__).parents[1] / "src/mpu_cli/demo/assets"
KAPPAS = (0.01, 0.03, 0.1, 0.3)
SETTINGS = {
    "harmonic m=1": {"denoising": "harmonic", "copies": 1},
    "harmonic m=2": {"denoising": "harmonic", "copies": 2},
    "harmonic m=3": {"denoising": "harmonic", "copies": 3},
    "equal α m=3": {"denoising": "harmonic", "copies": 3, "alphas": (1.0, 1.0, 1.0)},
    "extrapolation m=3": {"denoising": "extrapolation", "copies": 3},
}
RATES = {"sgd": 0.1, "adafactor": 1.3e-4, "adam-mini": 1.3e-4, "adamw": 1.3e-4, "muon": 1.3e-4}
STEPS, ROWS, TOKENS = 8, 6, 48
FRESH, MEMORISED = "Question: {question}\nAnswer: {answer}", "{question}\n{answer}"


class Client:
    """Gradient difference on the demo's rows, the same for every copy.

    Embeddings frozen, gradients cut at norm 1.
    """

    def __init__(
        self,
        model: Path,
        data: Path,
        optimizer: str,
        rate: float,
        *,
        matrices_only: bool,
        memorised: bool,
    ) -> None:
        from transformers import AutoTokenizer

        template = MEMORISED if memorised else FRESH

        self.optimizer, self.rate, self.matrices_only = optimizer, rate, matrices_only
        tokenizer = AutoTokenizer.from_pretrained(model)
        self.batches = []
        parts = []
        for name in ("forget", "retain"):
            lines = (data / f"{name}.jsonl").read_text().splitlines()[: STEPS * ROWS]
            rows = [json.loads(line) for line in lines]
            texts = [template.format(**row) for row in rows]
            parts.append([tokenizer(text)["input_ids"][:TOKENS] for text in texts])
        for step in range(STEPS):
            self.batches.append([_batch(part, step) for part in parts])

    def train(self, source: Path, out: Path) -> None:
        """Train the model in `source`, save to `out`."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).train()
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            module.weight.requires_grad_(False)
        for parameter in model.parameters():
            parameter.requires_grad_(
                parameter.requires_grad and (parameter.dim() > 1 or not self.matrices_only)
            )
        named = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]
        groups = [{"params": named, "weight_decay": 0.0}]
        optimizer = optimizers.get(self.optimizer).build(groups, self.rate, model.config.to_dict())
        for (forget, forget_labels), (retain, retain_labels) in self.batches:
            loss = (
                model(input_ids=retain, labels=retain_labels).loss
                - model(input_ids=forget, labels=forget_labels).loss
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([parameter for _, parameter in named], 1.0)
            optimizer.step()
        model.save_pretrained(out)

    def answer(self, handoff: Path, folder: Path) -> Path:
        """Train every copy, hand back the update."""
        for copy in sorted(handoff.glob("copy-*")):
            self.train(copy, folder / "trained" / copy.name)
        diff(handoff, folder / "trained", folder / "to-server", DeltaFormat("float32", 10**9))
        return folder / "to-server"


def _batch(rows, step):
    chosen = [rows[(step * ROWS + number) % len(rows)] for number in range(ROWS)]
    ids = torch.zeros(ROWS, max(map(len, chosen)), dtype=torch.long)  # (B, T)
    labels = torch.full_like(ids, -100)
    for number, tokens in enumerate(chosen):
        ids[number, : len(tokens)] = labels[number, : len(tokens)] = torch.tensor(tokens)
    return ids, labels


def difference(after: Path, before: Path) -> dict[str, torch.Tensor]:
    first, second = open_checkpoint(after).tensors, open_checkpoint(before).tensors
    return {
        name: read_tensor(first[name]).double() - read_tensor(second[name]).double()
        for name in second
    }


def norm(tensors) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors.values()) ** 0.5


def error(
    answer,
    model: Path,
    base: Path,
    plain,
    entropy: PreparedEntropy,
    folder: Path | None = None,
    **settings,
) -> float:
    """One draw, end to end: the aggregated update's error relative to the noise-free one.

    `answer(handoff, folder)` plays the client and returns its update's directory; all is written
    below `folder`.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        handoff, secret, out = root / "to-client", root / "server", root / "next"
        given = PerturbSettings(**{"check": "none", **settings})
        perturb(
            Located(model, None),
            Located(base, None),
            Target(handoff, secret),
            given,
            entropy=entropy,
        )
        taken = AggregateSettings(
            dtype="float32",
            min_agreement=-1,
            max_relative_norm=1e9,
            max_tensor_norm=inf,
            max_row_norm=inf,
            max_copy_ratio=inf,
            max_agreement_drop=inf,
        )  # whatever the error is, it is measured
        aggregate([answer(handoff, root)], secret, Located(model, None), out, taken)
        found = difference(out, model)
    return norm({name: found[name] - plain[name] for name in plain}) / norm(plain)


def slope(kappas, errors) -> float:
    """Least-squares slope of log error against log κ."""
    x, y = [log(value) for value in kappas], [log(value) for value in errors]
    centre = sum(x) / len(x)
    return sum((a - centre) * b for a, b in zip(x, y, strict=True)) / sum(
        (a - centre) ** 2 for a in x
    )


def measure(
    optimizer: str,
    *,
    draws: int,
    offset: float,
    rate: float | None = None,
    matrices_only: bool = False,
    memorised: bool = False,
):
    """All settings and κ's; a dict that prints as JSON."""
    model, base = ASSETS / "model", ASSETS / "base"
    client = Client(
        model,
        ASSETS,
        optimizer,
        rate or RATES[optimizer],
        matrices_only=matrices_only,
        memorised=memorised,
    )
    with tempfile.TemporaryDirectory() as folder:
        client.train(model, Path(folder) / "plain")
        plain = difference(Path(folder) / "plain", model)
    size = norm({name: read_tensor(info) for name, info in open_checkpoint(model).tensors.items()})
    result = {
        "optimizer": optimizer,
        "offset": offset,
        "draws": draws,
        "update": norm(plain) / size,
        "kappas": KAPPAS,
        "settings": {},
    }
    for name, setting in SETTINGS.items():
        errors = []
        for kappa in KAPPAS:
            found = []
            for draw in range(draws):
                entropy = PreparedEntropy(
                    sha256(f"slopes benchmark, draw {draw}".encode()).digest()
                )
                found.append(
                    error(
                        client.answer,
                        model,
                        base,
                        plain,
                        entropy,
                        **setting,
                        kappa=kappa,
                        offset=offset * kappa,
                    )
                )
            errors.append(median(found))
        result["settings"][name] = {
            "errors": errors,
            "slope .01 to .3": slope(KAPPAS, errors),
            "slope .03 to .3": slope(KAPPAS[1:], errors[1:]),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--optimizer", choices=sorted(RATES), default="adafactor")
    parser.add_argument(
        "--rate",
        type=float,
        help="learning rate (default: moves the model by about half a per cent)",
    )
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--offset", type=float, default=0.0, help="c, as a multiple of κ")
    parser.add_argument("--train-norms", action="store_true", help="train norm weights too")
    parser.add_argument(
        "--memorised",
        action="store_true",
        help="rows in the very words that the model was trained on",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    started = time.process_time()
    result = measure(
        options.optimizer,
        draws=options.draws,
        offset=options.offset,
        rate=options.rate,
        matrices_only=not options.train_norms,
        memorised=options.memorised,
    )
    result["cpu_seconds"] = time.process_time() - started
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"{options.optimizer}, offset {options.offset:g} κ, median of {options.draws} draws; the"
        f" noise-free update is {result['update']:.2%} of the weights; {result['cpu_seconds']:.0f}"
        " CPU-s"
    )
    print(
        f"{'κ':18}"
        + "".join(f"{kappa:>10g}" for kappa in KAPPAS)
        + f"{'slope .01–.3':>16}{'.03–.3':>9}"
    )
    for name, row in result["settings"].items():
        cells = "".join(f"{value:10.1e}" for value in row["errors"])
        print(f"{name:18}{cells}{row['slope .01 to .3']:16.2f}{row['slope .03 to .3']:9.2f}")


if __name__ == "__main__":
    main()
