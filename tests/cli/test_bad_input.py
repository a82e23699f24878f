"""Errors of users: one line, a hint, the documented exit code, and no partial result."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rounds import QUICK, Done, Round
from safetensors.torch import load_file, save_file

from mpu_cli.bundle.manifest import FileEntry, UpdateCopy, UpdateManifest, decode, encode
from mpu_cli.checkpoint.digest import file_digest

NORM = "model.norm.weight"
GATE = "model.layers.1.mlp.gate_proj.weight"


@dataclass(frozen=True)
class Case:
    """One command line; `arguments` may break the round that they get.

    Every word must be in the message or the hint.
    """

    code: int
    words: tuple[str, ...]
    arguments: Callable[[Round, Path], tuple[object, ...]]
    target: str = "new"


def _perturb(
    *options: object,
    code: int = 2,
    words: tuple[str, ...] = (),
    prepare: Callable[[Round], object] = lambda r: None,
) -> Case:
    def arguments(r: Round, tmp: Path) -> tuple[object, ...]:
        prepare(r)
        given = [option(r) if callable(option) else option for option in options]
        fresh = () if "--secret" in given else ("--new-lineage", tmp / "fresh")
        base = () if "--base" in given else ("--base", r.base)
        return ("perturb", r.model, *base, "--handoff", tmp / "new", *fresh, *given)

    return Case(code, words, arguments)


def _unlearn(
    *options: object,
    code: int = 3,
    words: tuple[str, ...] = (),
    prepare: Callable[[Round], object] = lambda r: None,
) -> Case:
    def arguments(r: Round, tmp: Path) -> tuple[object, ...]:
        prepare(r)
        given = [option(r) if callable(option) else option for option in options]
        source = () if given and isinstance(given[0], Path) else (r.handoff,)
        forget = (
            ()
            if {"--forget", "--finish", "--no-forget"} & set(map(str, given))
            else ("--forget", r.forget)
        )
        retain = () if "--method" in given else ("--retain", r.retain)
        given = [item for item in given if item != "--no-forget"]
        return ("unlearn", *source, *forget, *retain, *QUICK, "--out", tmp / "new", *given)

    return Case(code, words, arguments)


def _diff(
    *options: object,
    code: int = 3,
    words: tuple[str, ...] = (),
    prepare: Callable[[Round], object] = lambda r: None,
) -> Case:
    def arguments(r: Round, tmp: Path) -> tuple[object, ...]:
        trained = shutil.copytree(r.handoff, tmp / "trained")
        prepare(Round(r.model, r.base, Path(trained), r.secret, r.update, r.forget, r.retain))
        return ("diff", r.handoff, trained, "--out", tmp / "new", *options)

    return Case(code, words, arguments)


def _aggregate(
    *options: object,
    code: int = 1,
    words: tuple[str, ...] = (),
    prepare: Callable[[Round], object] = lambda r: None,
) -> Case:
    def arguments(r: Round, tmp: Path) -> tuple[object, ...]:
        prepare(r)
        given = [option(r) if callable(option) else option for option in options]
        secret = () if "--secret" in given else ("--secret", r.secret)
        model = () if "--model" in given else ("--model", r.model)
        return ("aggregate", r.update, *secret, *model, "--out", tmp / "new", *given)

    return Case(code, words, arguments)


def _config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _tensors(
    directory: Path,
    change: Callable[[dict[str, torch.Tensor]], object],
    name: str = "model.safetensors",
) -> None:
    tensors = load_file(directory / name)
    change(tensors)
    save_file(tensors, directory / name, metadata={"format": "pt"})


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)


def _shards(directory: Path) -> None:
    names = list(load_file(directory / "model.safetensors"))
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    weight_map = {
        **dict.fromkeys(names, "model-00001-of-00002.safetensors"),
        "more": "model-00002-of-00002.safetensors",
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _sign_update(update: Path, of: dict[str, str] | None = None) -> None:
    """Write a manifest that matches the files."""
    old = decode((update / "mpu.yaml").read_bytes(), "x")
    copies = tuple(
        UpdateCopy(
            copy.name,
            (of or {}).get(copy.name, copy.of),
            "delta",
            {
                file.name: FileEntry(file_digest(file), file.stat().st_size)
                for file in sorted((update / copy.name).iterdir())
            },
        )
        for copy in old.copies
    )
    (update / "mpu.yaml").write_bytes(
        encode(UpdateManifest(old.handoff_id, old.handoff_digest, copies))
    )


def _edit_update(r: Round, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    _tensors(r.update / "copy-2", change, "delta.safetensors")
    _sign_update(r.update)


def _swap(r: Round, *, rename: bool) -> None:
    """Swap two copies, with their `of` (a mistake) or without (an attack)."""
    first, second = r.update / "copy-1", r.update / "copy-2"
    first.rename(r.update / "x")
    second.rename(first)
    (r.update / "x").rename(second)
    old = {copy.name: copy.of for copy in decode((r.update / "mpu.yaml").read_bytes(), "x").copies}
    _sign_update(r.update, {"copy-1": old["copy-2"], "copy-2": old["copy-1"]} if rename else None)


CASES = {
    # perturb: the model and its base
    "missing model": Case(
        3,
        ("nowhere", "no such model directory"),
        lambda r, tmp: (
            "perturb",
            tmp / "nowhere",
            "--handoff",
            tmp / "new",
            "--secret",
            tmp / "fresh",
        ),
    ),
    "missing base": _perturb(
        "--base", "/no/where", code=3, words=("/no/where", "no such model directory")
    ),
    "base of another shape": _perturb(
        code=3,
        words=(GATE, "[3, 32]", "[48, 32]", "fine-tuned from"),
        prepare=lambda r: _tensors(r.base, lambda t: t.update({GATE: torch.zeros(3, 32)})),
    ),
    "base without a tensor": _perturb(
        code=3,
        words=("the base has no tensor", GATE),
        prepare=lambda r: _tensors(r.base, lambda t: t.pop(GATE)),
    ),
    "model equal to its base": _perturb(
        "--base", lambda r: r.model, code=3, words=("equals its base in every layer", "--base")
    ),
    "pickled weights": _perturb(
        code=3,
        words=("pytorch_model.bin", "pickle", "safetensors"),
        prepare=lambda r: (r.model / "model.safetensors").rename(r.model / "pytorch_model.bin"),
    ),
    "truncated safetensors": _perturb(
        code=3,
        words=("model.safetensors", "truncated"),
        prepare=lambda r: _truncate(r.model / "model.safetensors"),
    ),
    "missing tensor": _perturb(
        code=3, words=(GATE, "missing"), prepare=lambda r: _tensors(r.model, lambda t: t.pop(GATE))
    ),
    "missing norm": _perturb(
        code=3, words=(NORM, "missing"), prepare=lambda r: _tensors(r.model, lambda t: t.pop(NORM))
    ),
    "extra tensor": _perturb(
        code=3,
        words=("model.layers.0.mystery", "llama"),
        prepare=lambda r: _tensors(
            r.model, lambda t: t.update({"model.layers.0.mystery": torch.zeros(2)})
        ),
    ),
    "absent shard": _perturb(
        code=3,
        words=("model.safetensors.index.json", "model-00002-of-00002.safetensors", "absent"),
        prepare=lambda r: _shards(r.model),
    ),
    "unknown model_type": _perturb(
        code=3,
        words=("config.json", "'mamba'", "known: ", "llama, "),
        prepare=lambda r: _config(r.model, model_type="mamba"),
    ),
    "no model_type": _perturb(
        code=3,
        words=("config.json", "model_type None"),
        prepare=lambda r: _config(r.model, model_type=None),
    ),
    "quantised": _perturb(
        code=3,
        words=("config.json", "quantised", "dequantise first"),
        prepare=lambda r: _config(r.model, quantization_config={"bits": 4}),
    ),
    "remote code": _perturb(
        code=3,
        words=("config.json", "auto_map"),
        prepare=lambda r: _config(r.model, auto_map={"AutoModel": "x.Y"}),
    ),
    "heads that do not divide": _perturb(
        code=3,
        words=("config.json", "num_key_value_heads, 3"),
        prepare=lambda r: _config(r.model, num_key_value_heads=3),
    ),
    "sizes of another model": _perturb(
        code=3,
        words=("intermediate_size", "'many'"),
        prepare=lambda r: _config(r.model, intermediate_size="many"),
    ),
    # perturb: options
    "negative kappa": _perturb("--kappa", "-0.1", words=("--kappa -0.1", "from 0 to 1000")),
    "kappa beyond anything": _perturb("--kappa", "1e30", words=("--kappa 1e+30", "from 0 to 1000")),
    "kappa not a number": _perturb("--kappa", "nan", words=("--kappa nan",)),
    "no copies": _perturb("--copies", "0", words=("--copies 0", "from 1")),
    "alpha of zero": _perturb("--alphas", "1,0,1", words=("--alphas", "positive")),
    "negative alpha": _perturb("--alphas=-1,1,1", words=("--alphas", "positive")),
    "too few alphas": _perturb("--alphas", "1,2", words=("--alphas: 2 values for 3 copies",)),
    "alphas that are words": _perturb(
        "--alphas", "one,two,three", words=("--alphas one,two,three", "1,1.5,2")
    ),
    "alphas with extrapolation": _perturb(
        "--denoising",
        "extrapolation",
        "--alphas",
        "1,2,3",
        words=("--alphas belongs to", "--nodes"),
    ),
    "nodes with harmonic": _perturb("--nodes", "1,-1,2", words=("--nodes belongs to", "--alphas")),
    "nodes that repeat": _perturb(
        "--denoising", "extrapolation", "--nodes", "1,1,2", words=("--nodes", "distinct")
    ),
    "extrapolation with one copy": _perturb(
        "--denoising",
        "extrapolation",
        "-m",
        "1",
        words=("extrapolation needs at least two copies",),
    ),
    "extrapolation with five copies": _perturb(
        "--denoising", "extrapolation", "-m", "5", words=("--nodes",)
    ),
    "negative offset": _perturb("--offset", "-1", words=("--offset -1",)),
    "split of one copy": _perturb("--split", "-m", "1", words=("--split",)),
    "unknown denoising": _perturb(
        "--denoising", "harmonik", words=("--denoising harmonik", "did you mean harmonic?")
    ),
    "unknown reparam": _perturb(
        "--reparam", "rotations", words=("--reparam rotations", "did you mean rotation?")
    ),
    "unknown dtype": _perturb("--dtype", "fp16", words=("--dtype fp16", "float16")),
    "shards of no size": _perturb("--max-shard-size", "big", words=("--max-shard-size big", "5GB")),
    "task vector without base": Case(
        2,
        ("task vector", "needs --base"),
        lambda r, tmp: (
            "perturb",
            r.model,
            "--noise-relative-to",
            "task-vector",
            "--handoff",
            tmp / "new",
            "--new-lineage",
            tmp / "fresh",
        ),
    ),
    "neither secret nor new lineage": Case(
        2,
        ("--secret", "--new-lineage"),
        lambda r, tmp: ("perturb", r.model, "--handoff", tmp / "new"),
    ),
    "no handoff": Case(
        2, ("--handoff",), lambda r, tmp: ("perturb", r.model, "--secret", tmp / "fresh")
    ),
    # perturb: the lineage
    "changed offset": _perturb(
        "--secret",
        lambda r: r.secret,
        "--offset",
        "0.2",
        code=1,
        words=("--offset 0.2", "froze its offset at 0"),
    ),
    "model of another lineage": _perturb(
        "--secret",
        lambda r: r.secret,
        code=1,
        words=("not in the lineage", "--new-lineage"),
        prepare=lambda r: _tensors(r.model, lambda t: t[NORM].add_(1)),
    ),
    "another base": _perturb(
        "--secret",
        lambda r: r.secret,
        code=3,
        words=("--base", "another base"),
        prepare=lambda r: _tensors(r.base, lambda t: t[GATE].add_(1)),
    ),
    "altered secret": _perturb(
        "--secret",
        lambda r: r.secret,
        code=3,
        words=("secret.yaml",),
        prepare=lambda r: _truncate(r.secret / "secret.yaml"),
    ),
    "unknown id to reissue": _perturb(
        "--secret",
        lambda r: r.secret,
        "--reissue",
        "ab" * 16,
        code=3,
        words=("no handoff " + "ab" * 16, "mpu inspect"),
    ),
    # unlearn
    "missing source": _unlearn(Path("/no/where"), words=("/no/where",)),
    "no forget set": _unlearn("--no-forget", code=2, words=("--forget is needed",)),
    "missing forget file": _unlearn(
        "--forget", "/no/forget.jsonl", words=("/no/forget.jsonl", "no such file")
    ),
    "empty forget file": _unlearn(
        words=("forget.jsonl has no rows",), prepare=lambda r: r.forget.write_text("\n\n")
    ),
    "row without answer": _unlearn(
        words=("forget.jsonl:3", "'question' without 'answer'"),
        prepare=lambda r: r.forget.write_text(
            '{"question": "a", "answer": "b"}\n\n{"question": "w1 ?"}\n'
        ),
    ),
    "row with an empty answer": _unlearn(
        words=("retain.jsonl:1", "'answer' is empty"),
        prepare=lambda r: r.retain.write_text('{"question": "a", "answer": " "}\n'),
    ),
    "row that is no JSON": _unlearn(
        words=("forget.jsonl:2", "broken JSON"),
        prepare=lambda r: r.forget.write_text('{"text": "a"}\n{"text"\n'),
    ),
    "unknown method": _unlearn("--method", "NOP", code=2, words=("NOP", "NPO")),
    "method without its retain set": _unlearn(
        "--method", "GradDiff", code=2, words=("GradDiff", "--retain")
    ),
    "unknown parameter": _unlearn("--set", "betta=1", code=2, words=("betta",)),
    "unknown optimizer": _unlearn("--optimizer", "adam", code=2, words=("adam",)),
    "learning rate of zero": _unlearn("--learning-rate", "0", code=2, words=("--learning-rate",)),
    "unknown delta dtype": _unlearn(
        "--delta-dtype", "float16", code=2, words=("--delta-dtype float16",)
    ),
    "copy that is not there": _unlearn("--copy", "3", code=2, words=("--copy 3", "has 2 copies")),
    "copy of a model": Case(
        2,
        ("--copy and --finish belong to a handoff",),
        lambda r, tmp: (
            "unlearn",
            r.model,
            "--forget",
            r.forget,
            "--copy",
            "1",
            "--out",
            tmp / "new",
        ),
    ),
    "finish before the copies": _unlearn("--finish", words=("copy-1 is missing", "--copy 1")),
    "altered handoff": _unlearn(
        words=("copy-2/config.json", "do not match"),
        prepare=lambda r: (r.handoff / "copy-2" / "config.json").write_text(
            (r.handoff / "copy-2" / "config.json").read_text().replace("silu", "relu")
        ),
    ),
    "unlearn an update": _unlearn(
        words=("is an update, expected a handoff",),
        prepare=lambda r: (shutil.rmtree(r.handoff), r.update.rename(r.handoff)),
    ),
    # diff
    "trained copy missing": _diff(
        words=("copy-2 is missing", "copy-2"), prepare=lambda r: shutil.rmtree(r.handoff / "copy-2")
    ),
    "trained tensor missing": _diff(
        words=(GATE, "missing"),
        prepare=lambda r: _tensors(r.handoff / "copy-1", lambda t: t.pop(GATE)),
    ),
    "trained tensor too many": _diff(
        words=("extra", "not in the published copy"),
        prepare=lambda r: _tensors(r.handoff / "copy-1", lambda t: t.update(extra=torch.zeros(1))),
    ),
    "trained tensor of another shape": _diff(
        words=(NORM, "[9]", "[32]"),
        prepare=lambda r: _tensors(
            r.handoff / "copy-1", lambda t: t.update({NORM: torch.zeros(9)})
        ),
    ),
    "trained embeddings": _diff(
        code=1,
        words=("model.embed_tokens.weight", "frozen"),
        prepare=lambda r: _tensors(
            r.handoff / "copy-1", lambda t: t["model.embed_tokens.weight"].add_(1)
        ),
    ),
    "trained to NaN": _diff(
        code=1,
        words=(GATE, "NaN", "train again with a lower learning rate"),
        prepare=lambda r: _tensors(r.handoff / "copy-2", lambda t: t[GATE].fill_(float("nan"))),
    ),
    "trained and pickled": _diff(
        words=("pytorch_model.bin", "pickle"),
        prepare=lambda r: (r.handoff / "copy-1" / "model.safetensors").rename(
            r.handoff / "copy-1" / "pytorch_model.bin"
        ),
    ),
    "the forget file to keep": _unlearn(
        "--retain", lambda r: r.forget, words=("--forget", "all of its rows", "--allow-overlap")
    ),
    "the forget rows to keep, under another name": _unlearn(
        "--retain",
        lambda r: r.retain,
        words=("forget.jsonl:1 = retain.jsonl:1", "--allow-overlap"),
        prepare=lambda r: r.retain.write_text(
            r.forget.read_text().replace("question", "prompt").replace("answer", "completion")
        ),
    ),
    # aggregate
    "NaN in an update": _aggregate(
        words=("copy-2", GATE, "NaN"),
        prepare=lambda r: _edit_update(r, lambda t: t[GATE].fill_(float("nan"))),
    ),
    "foreign tensor": _aggregate(
        words=("copy-2", "backdoor", "does not exist"),
        prepare=lambda r: _edit_update(r, lambda t: t.update(backdoor=torch.zeros(1))),
    ),
    "update of another shape": _aggregate(
        words=("copy-2", GATE, "[2]", "[48, 32]"),
        prepare=lambda r: _edit_update(r, lambda t: t.update({GATE: torch.zeros(2)})),
    ),
    "update in float16": _aggregate(
        words=("copy-2", GATE, "F16"),
        prepare=lambda r: _edit_update(r, lambda t: t.update({GATE: t[GATE].half()})),
    ),
    "change in a frozen tensor": _aggregate(
        words=("copy-2", "lm_head.weight", "freezes it"),
        prepare=lambda r: _edit_update(
            r, lambda t: t.update({"lm_head.weight": torch.zeros(64, 32)})
        ),
    ),
    "swapped copies, by name": _aggregate(
        words=("copy-1", "swapped"), prepare=lambda r: _swap(r, rename=True)
    ),
    # The least agreement that is asked for is far from both: two small random copies agree by .15
    # now and then.
    "swapped copies, by content": _aggregate(
        "--min-agreement",
        "0.5",
        words=("do not agree", "--min-agreement"),
        prepare=lambda r: _swap(r, rename=False),
    ),
    "altered update": _aggregate(
        code=3,
        words=("copy-1/delta.safetensors",),
        prepare=lambda r: _truncate(r.update / "copy-1" / "delta.safetensors"),
    ),
    "missing update": Case(
        3,
        ("/no/update",),
        lambda r, tmp: (
            "aggregate",
            "/no/update",
            "--secret",
            r.secret,
            "--model",
            r.model,
            "--out",
            tmp / "new",
        ),
    ),
    "handoff instead of update": Case(
        3,
        ("is a handoff, expected an update",),
        lambda r, tmp: (
            "aggregate",
            r.handoff,
            "--secret",
            r.secret,
            "--model",
            r.model,
            "--out",
            tmp / "new",
        ),
    ),
    "update twice": Case(
        1,
        ("already in the model", "once"),
        lambda r, tmp: (
            "aggregate",
            r.update,
            r.update,
            "--secret",
            r.secret,
            "--model",
            r.model,
            "--out",
            tmp / "new",
        ),
    ),
    "missing secret": _aggregate(
        "--secret", "/no/secret", code=3, words=("/no/secret", "--secret")
    ),
    "model that the lineage does not know": _aggregate(
        "--model", lambda r: r.base, words=("not in the lineage",)
    ),
    "server learning rate of zero": _aggregate(
        "--server-lr", "0", code=2, words=("--server-lr 0",)
    ),
    "update too large": _aggregate(
        "--max-relative-norm", "1e-9", words=("of the model's norm", "--max-relative-norm")
    ),
    # results inside inputs
    "handoff inside the model": _perturb(
        "--force",
        "--handoff",
        lambda r: r.model / "to-client",
        words=("inside it, or contains it", "separate directory"),
    ),
    "handoff over the base": _perturb(
        "--force", "--handoff", lambda r: r.base, words=("inside it, or contains it",)
    ),
    "handoff over the secret": _perturb(
        "--force",
        "--secret",
        lambda r: r.secret,
        "--handoff",
        lambda r: r.secret / "x",
        words=("inside it, or contains it",),
    ),
    "update over the handoff": _unlearn(
        "--force", "--out", lambda r: r.handoff, code=2, words=("inside it, or contains it",)
    ),
    "result over the update": _aggregate(
        "--force", "--out", lambda r: r.update, code=2, words=("inside it, or contains it",)
    ),
    "result over the model": _aggregate(
        "--force", "--out", lambda r: r.model, code=2, words=("inside it, or contains it",)
    ),
    # inspect and verify
    "inspect nothing": Case(
        3, ("/no/where", "no such directory"), lambda r, tmp: ("inspect", "/no/where")
    ),
    "verify nothing": Case(
        3, ("/no/where", "no such directory"), lambda r, tmp: ("verify", "/no/where")
    ),
    "inspect a folder": Case(3, ("no config.json",), lambda r, tmp: ("inspect", tmp)),
    "verify a model with a foreign tensor": Case(
        3,
        ("mystery",),
        lambda r, tmp: (
            _tensors(r.model, lambda t: t.update(mystery=torch.zeros(1))),
            "verify",
            r.model,
        )[1:],
    ),
    "verify NaN": Case(
        1,
        ("NaN",),
        lambda r, tmp: (_edit_update(r, lambda t: t[GATE].fill_(float("nan"))), "verify", r.update)[
            1:
        ],
    ),
    # the command line itself
    "unknown command": Case(
        2, ("'perturbb'", "did you mean perturb?"), lambda r, tmp: ("perturbb", r.model)
    ),
    "unknown option": Case(
        2, ("--kapa", "--kappa"), lambda r, tmp: ("perturb", r.model, "--kapa", "1")
    ),
    "option not a number": _perturb("--kappa", "much", words=("--kappa", "number")),
    "argument too many": Case(2, ("extra",), lambda r, tmp: ("verify", r.model, "extra")),
}


def _check_message(done: Done, case: Case) -> None:
    lines = done.err.splitlines()
    assert done.code == case.code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert lines
    message, *rest = [
        line for line in lines if re.match(r"mpu: (?!error: |hint: )", line) is None
    ]  # but for notes and warnings
    assert message.startswith("mpu: error: "), done.err
    assert len(rest) <= 1 and all(line.startswith("mpu: hint: ") for line in rest), done.err
    for word in case.words:
        assert word in done.err, done.err


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_with_a_hint_and_leaves_nothing(
    name, mpu, own_round, tmp_path, leftovers
):
    """The message names the cause; no target, partial sibling or new secret exists."""
    case = CASES[name]
    arguments = case.arguments(own_round, tmp_path)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    done = mpu(*arguments)
    _check_message(done, case)
    assert leftovers() == []
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


JSON = [
    "too few alphas",
    "missing base",
    "changed offset",
    "NaN in an update",
    "row without answer",
    "unknown command",
    "unknown option",
]


@pytest.mark.parametrize("name", JSON)
def test_with_json_an_error_is_one_object_on_stdout(name, mpu, own_round, tmp_path):
    """Kind, message, hint and exit code; nothing else on stdout or stderr."""
    case = CASES[name]
    done = mpu(*case.arguments(own_round, tmp_path), "--json")
    assert done.code == case.code
    assert done.err == ""
    error = done.json["error"]
    assert set(done.json) == {"error"}
    assert set(error) == {"kind", "message", "hint", "exit_code"}
    assert error["exit_code"] == case.code
    assert all(word in f"{error['message']} {error['hint']}" for word in case.words)
    assert done.out.count("\n") == 1


def test_a_target_that_exists_is_refused_by_every_command_and_kept(mpu, own_round, tmp_path):
    """Exit 3 before any work. The target does not change, and --force replaces it."""
    r, target = own_round, tmp_path / "mine"
    target.mkdir()
    (target / "precious").write_text("mine")
    commands = [
        ("perturb", r.model, "--base", r.base, "--handoff", target, "--secret", tmp_path / "fresh"),
        ("unlearn", r.handoff, "--forget", r.forget, "--retain", r.retain, *QUICK, "--out", target),
        ("unlearn", r.model, "--forget", r.forget, "--retain", r.retain, *QUICK, "--out", target),
        ("diff", r.handoff, r.handoff, "--out", target),
        ("aggregate", r.update, "--secret", r.secret, "--model", r.model, "--out", target),
    ]
    for command in commands:
        done = mpu(*command)
        assert (done.code, done.out) == (3, ""), command
        assert (
            done.err
            == f"mpu: error: {target}: exists and is not empty\nmpu: hint: choose another path, or"
            " give --force to replace it\n"
        )
        assert [path.name for path in target.iterdir()] == ["precious"]
    assert not (tmp_path / "fresh").exists()
    done = mpu(*commands[3], "--force")
    assert done.code == 3
    assert "has no file list from mpu" in done.err
    shutil.copytree(r.update, target, dirs_exist_ok=True)
    done = mpu(*commands[3], "--force")
    assert done.code == 3
    assert f"{target / 'precious'}: was not written by mpu" in done.err
    (target / "precious").unlink()
    assert mpu(*commands[3], "--force").code == 0
    assert mpu("verify", target).code == 0


def test_a_secret_is_never_overwritten(mpu, own_round, tmp_path):
    """--force replaces a handoff, but not the secret; --new-lineage needs a new directory."""
    r = own_round
    before = {path: path.read_bytes() for path in r.secret.rglob("*") if path.is_file()}
    done = mpu(
        "perturb",
        r.model,
        "--base",
        r.base,
        "--handoff",
        tmp_path / "new",
        "--new-lineage",
        r.secret,
        "--force",
    )
    assert done.code == 3
    assert "does not exist yet" in done.err
    assert (
        mpu(
            "perturb",
            r.model,
            "--base",
            r.base,
            "--handoff",
            r.handoff,
            "--secret",
            r.secret,
            "--force",
        ).code
        == 0
    )
    assert all(path.read_bytes() == data for path, data in before.items())


def test_an_update_of_another_lineage_or_handoff_is_refused(
    mpu, own_round, finished_round, tmp_path
):
    """By id if the lineage has no such handoff, and by digest if the id is forged."""
    r = own_round
    made = mpu(
        "perturb",
        r.model,
        "--base",
        r.base,
        "--handoff",
        tmp_path / "other",
        "--new-lineage",
        tmp_path / "server-2",
        "-m",
        2,
    )
    assert made.code == 0
    done = mpu(
        "aggregate",
        r.update,
        "--secret",
        tmp_path / "server-2",
        "--model",
        r.model,
        "--out",
        tmp_path / "new",
    )
    assert done.code == 1
    assert "which this lineage never made" in done.err
    old = decode((r.update / "mpu.yaml").read_bytes(), "x")
    other = decode((tmp_path / "other" / "mpu.yaml").read_bytes(), "x")
    (r.update / "mpu.yaml").write_bytes(
        encode(UpdateManifest(other.id, old.handoff_digest, old.copies))
    )
    done = mpu(
        "aggregate",
        r.update,
        "--secret",
        tmp_path / "server-2",
        "--model",
        r.model,
        "--out",
        tmp_path / "new",
    )
    assert done.code == 1
    assert "the update was made from handoff" in done.err
    assert not (tmp_path / "new").exists()


def test_names_from_the_other_party_cannot_break_the_line(mpu, own_round, tmp_path):
    """A tensor name with a line break and a terminal code is printed escaped."""
    evil = "x\nmpu: all good\x1b[2J"
    _edit_update(own_round, lambda t: t.update({evil: torch.zeros(1)}))
    done = mpu(
        "aggregate",
        own_round.update,
        "--secret",
        own_round.secret,
        "--model",
        own_round.model,
        "--out",
        tmp_path / "new",
    )
    assert done.code == 3
    assert "\x1b" not in done.err
    error, hint = done.err.splitlines()
    assert r"x\nmpu: all good\x1b[2J" in error
    assert hint.startswith("mpu: hint: ")


def test_an_internal_error_is_70_and_says_how_to_see_more(mpu, own_round, monkeypatch):
    """An error of mpu is not reported as bad input; MPU_DEBUG=1 shows the traceback."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops\nsecond line")

    monkeypatch.setattr("mpu_cli.cli.commands.verify.verify_bundle", broken)
    monkeypatch.delenv("MPU_DEBUG", raising=False)
    done = mpu("verify", own_round.handoff)
    assert done.code == 70
    assert (
        done.err
        == "mpu: error: internal error: ZeroDivisionError: oops\nmpu: hint: please report it;"
        " MPU_DEBUG=1 shows where\n"
    )
    assert mpu("verify", own_round.handoff, "--json").json["error"]["kind"] == "Internal"
    monkeypatch.setenv("MPU_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        mpu("verify", own_round.handoff)
