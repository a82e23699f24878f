"""`--preset paper` is the authors' run.

Held against a plain loop of their recipe, on the published copies.
"""

from __future__ import annotations

import json
import logging

import pytest
from authors_recipe import ROUNDS_AND_EPOCHS, Recipe, order, unlearn
from safetensors.torch import load_file
from two_parties import moved, relative, steps_of, weights

from mpu_cli.server.lineage.models import Lineage

NUMBERS = logging.getLogger("numbers")
"""`pytest --log-cli-level=INFO` prints what docs/log.md quotes."""
FORGET = [
    {"question": f"w{i} w{i + 1} ?", "answer": f"w{i + 2} w{i + 3} w{i % 7} ."} for i in range(18)
]
RETAIN = [
    {"question": f"w{i} w{i + 2} ?", "answer": f"w{i + 5} w{i % 11} ."} for i in range(10, 40)
]
REFUSALS = ["w1 w2 .", "w3 .", "w4 w5 w6 .", "w7 w8"]
OWN = {"batch_size": 2}
"""18 rows in batches of 2 and steps of 4: two whole steps and a partial one in each epoch."""


@pytest.fixture
def data(tmp_path):
    """The client's files."""
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "refusals.txt").write_text("\n".join(REFUSALS))
    return tmp_path


def play(mpu, data, pair, method, round_number, model):
    """One round of the preset; returns the aggregated model's directory."""
    root = data / f"round-{round_number}"
    root.mkdir()
    perturbed = mpu(
        "perturb",
        model,
        "--base",
        pair.base,
        "--handoff",
        root / "to-client",
        "--secret",
        data / "server",
        "--preset",
        "paper",
        "--dtype",
        "float32",
    )
    assert perturbed.code == 0, perturbed.err
    options = ["--method", method, "--preset", "paper", "--round", round_number]
    options += ["--precision", "float32", "--batch-size", OWN["batch_size"]]
    options += ["--refusals", data / "refusals.txt"] if method == "DPO" else []
    if method in {"NPO", "DPO", "UnDIAL"} and round_number > 1:
        options += ["--reference", data / "round-1" / "to-client"]
    files = ["--forget", data / "forget.jsonl", "--retain", data / "retain.jsonl"]
    trained = mpu("unlearn", root / "to-client", *files, *options, "--out", root / "to-server")
    assert trained.code == 0, trained.err
    done = mpu(
        "aggregate",
        root / "to-server",
        "--secret",
        data / "server",
        "--model",
        model,
        "--out",
        root / "next",
    )
    assert done.code == 0, done.err
    return root / "next"


def plainly(data, method, round_number, model):
    """The same round by the plain loop, aggregated: the change of theta by tensor name."""
    root = data / f"round-{round_number}"
    epochs = ROUNDS_AND_EPOCHS[method][1]
    recipe = Recipe(method, data / "forget.jsonl", data / "retain.jsonl", REFUSALS, epochs, **OWN)
    record = max(Lineage.read(data / "server").handoffs.values(), key=lambda each: each.sequence)
    steps = steps_of(data / "server", record, model)
    share = sum(1 / copy.coefficient for copy in record.copies)
    total = {}
    for copy in record.copies:
        reference = data / "round-1" / "to-client" / copy.name
        change = unlearn(
            root / "to-client" / copy.name,
            reference,
            recipe,
            order(copy.name, round_number, epochs),
        )
        for name, value in moved(steps[copy.name], model, change, back=True).items():
            total[name] = total.get(name, 0) + value / copy.coefficient / share
    return total


FAST = ("DPO", "SatImp")
"""Both of one epoch a round, one with a reference; the others take longer and are marked slow."""


@pytest.mark.parametrize(
    "method",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in ROUNDS_AND_EPOCHS
    ],
)
def test_two_rounds_are_the_authors(method, tiny_pair, data, mpu):
    """AdamW 1e-5, two rounds: each update is within 1e-4 of the plain loop's on the same copies."""
    pair = tiny_pair("llama")
    model, errors = pair.model, []
    for number in (1, 2):
        after = play(mpu, data, pair, method, number, model)
        before, now = weights(model), weights(after)
        change = plainly(data, method, number, model)
        # Both models are stored in float32: three steps of 1e-5 are so small that rounding alone is
        # 3e-4 of them.
        theirs = {name: (before[name].double() + change[name]).float() for name in before}
        errors.append(
            relative(
                *(
                    {name: each[name].double() - before[name].double() for name in before}
                    for each in (now, theirs)
                )
            )
        )
        model = after
    NUMBERS.info(
        "%s: rounds 1 and 2 differ from the plain loop by %s",
        method,
        ", ".join(f"{error:.1e}" for error in errors),
    )
    assert max(errors) <= 1e-4, errors


OTHERWISE = {
    "DPO": [
        ("--no-decay-all",),
        ("--weight-decay", "0"),
        ("--no-train-embeddings",),
        ("--one-order",),
        ("--draws", "dealt"),
        ("--one-refusal",),
        ("--round", "2", "--reference", "{model}"),
        ("--set", "alpha=0.5"),
        ("--epochs", "2"),
        ("--max-grad-norm", "0"),
        ("--precision", "bfloat16"),
    ],
    # Gradients are cut to 1 in every step on this model, which hides their size: here they are not.
    "SatImp": [("--partial-step", "mean"), ("--max-grad-norm", "1")],
}


@pytest.mark.slow
@pytest.mark.parametrize("method", OTHERWISE)
def test_each_setting_is_seen(method, tiny_pair, data, mpu):
    """Negative controls: if any one setting of the preset is undone, the comparison fails."""
    pair, root = tiny_pair("llama"), data / "round-1"
    play(mpu, data, pair, method, 1, pair.model)
    copy = root / "to-client" / "copy-1"
    norm = 1.0 if method == "DPO" else 1e6
    recipe = Recipe(
        method, data / "forget.jsonl", data / "retain.jsonl", REFUSALS, 1, max_grad_norm=norm, **OWN
    )
    expected = unlearn(copy, copy, recipe, order("copy-1", 1, 1))
    shared = [
        "--method",
        method,
        "--preset",
        "paper",
        "--batch-size",
        OWN["batch_size"],
        "--copy",
        "1",
    ]
    shared += ["--forget", data / "forget.jsonl", "--retain", data / "retain.jsonl"]
    shared += ["--refusals", data / "refusals.txt"] if method == "DPO" else []
    errors = {}
    for number, options in enumerate([(), *OTHERWISE[method]]):
        given = [option.format(model=pair.model) for option in options]
        given += [] if "--max-grad-norm" in given else ["--max-grad-norm", norm]
        given += [] if "--round" in given else ["--round", "1"]
        given += [] if "--precision" in given else ["--precision", "float32"]
        out = root / f"other-{number}"
        done = mpu("unlearn", root / "to-client", *shared, *given, "--out", out)
        assert done.code == 0, done.err
        found = load_file(out / "copy-1" / "delta.safetensors")
        # What is not in the delta did not change.
        errors[" ".join(options)] = relative(
            {name: found.get(name, 0 * value) for name, value in expected.items()}, expected
        )
    NUMBERS.info(
        "%s, round 1, with one setting undone: %s",
        method,
        ", ".join(f"{k or 'none'} {v:.1e}" for k, v in errors.items()),
    )
    assert errors.pop("") <= 1e-4
    assert min(errors.values()) > 1e-3, errors
