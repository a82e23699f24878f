"""A whole round of two parties in real processes, and copies that other programs trained."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
import torch
from rounds import quietly
from safetensors.torch import load_file, save_file

ASSETS = Path(str(resources.files("mpu_cli"))) / "demo" / "assets"
RECIPE = (
    "--forget",
    "forget.jsonl",
    "--retain",
    "retain.jsonl",
    "--max-steps",
    "1",
    "--batch-size",
    "4",
    "--learning-rate",
    "1e-3",
)


@pytest.fixture(scope="module")
def parties(tmp_path_factory) -> tuple[Path, Path]:
    """Two directories that share no path: the server has model and base, the client its rows."""
    server, client = tmp_path_factory.mktemp("server-side"), tmp_path_factory.mktemp("client-side")
    for name in ("model", "base"):
        if not (ASSETS / name / "model.safetensors").exists():
            pytest.skip(f"the demo's {name} is not there")
        shutil.copytree(ASSETS / name, server / name)
    for name in ("forget.jsonl", "retain.jsonl"):
        rows = (ASSETS / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (client / name).write_text("".join(rows[:8]), encoding="utf-8")
    return server, client


def _mpu(where: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    import os

    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("MPU_DEBUG", None)
    return subprocess.run(
        [sys.executable, "-m", "mpu_cli", *map(str, arguments)],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _json(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def transcript(parties) -> dict[str, dict]:
    """One round by hand: four commands, two `cp`, every result as JSON."""
    server, client = parties
    done = {}
    paths = ("--base", "base", "--handoff", "to-client", "--secret", "server")
    done["perturb"] = _json(
        _mpu(server, "perturb", "model", *paths, "-m", 2, "--client", "first", "--json")
    )
    shutil.copytree(server / "to-client", client / "to-client")
    done["unlearn"] = _json(
        _mpu(client, "unlearn", "to-client", *RECIPE, "--out", "to-server", "--json")
    )
    shutil.copytree(client / "to-server", server / "to-server")
    given = ("--secret", "server", "--model", "model", "--out", "model-next")
    done["aggregate"] = _json(_mpu(server, "aggregate", "to-server", *given, "--json"))
    done["inspect"] = _json(_mpu(server, "inspect", "server", "--json"))
    return done


def test_a_round_from_perturb_to_inspect(parties, transcript):
    """Only the handoff and the update pass between the two directories."""
    server, client = parties
    assert transcript["perturb"]["copies"] == 2
    assert set(transcript["unlearn"]["copies"]) == {"copy-1", "copy-2"}
    assert transcript["aggregate"]["agreement"][0] > 0.5
    assert 0 < transcript["aggregate"]["relative_norm"] < 0.5
    told = transcript["inspect"]
    assert [model["digest"] for model in told["models"]] == [
        transcript["perturb"]["model"],
        transcript["aggregate"]["digest"],
    ]
    assert told["head"] == transcript["perturb"]["model"]
    assert told["handoffs"][0]["answered_in"] == [transcript["aggregate"]["digest"]]
    assert told["handoffs"][0]["holder"] == "first"
    assert sorted(path.name for path in client.iterdir()) == [
        "forget.jsonl",
        "retain.jsonl",
        "to-client",
        "to-server",
    ]
    assert sorted(path.name for path in server.iterdir()) == [
        "base",
        "model",
        "model-next",
        "server",
        "to-client",
        "to-server",
    ]
    before, after = (
        load_file(server / "model" / "model.safetensors"),
        load_file(server / "model-next" / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_result_loads_and_a_replay_is_refused(parties, transcript, mpu, monkeypatch, tmp_path):
    """The new model is a plain directory.

    The same update is refused for it, but another rate for its parent is allowed.
    """
    server, _ = parties
    monkeypatch.chdir(server)
    assert mpu("verify", "model-next").code == 0
    mine = Path(shutil.copytree("server", tmp_path / "server"))
    replay = mpu(
        "aggregate",
        "to-server",
        "--secret",
        mine,
        "--model",
        "model-next",
        "--out",
        tmp_path / "again",
    )
    assert replay.code == 1
    assert "replay" in replay.err
    redo = (
        "--secret",
        Path(shutil.copytree("server", tmp_path / "server-2")),
        "--model",
        "model",
        "--out",
        tmp_path / "half",
        "--server-lr",
        "0.5",
    )
    assert mpu("aggregate", "to-server", *redo).code == 0


def test_copies_made_one_by_one_give_the_same_update(parties, transcript, mpu, monkeypatch):
    """--copy 1, --copy 2 and --finish, in any order, give the digest of a single run."""
    _, client = parties
    monkeypatch.chdir(client)
    in_one_go = mpu("inspect", "to-server", "--json").json["digest"]
    for copy in (2, 1):
        assert not Path("by-copy/mpu.yaml").exists()
        assert mpu("unlearn", "to-client", *RECIPE, "--copy", copy, "--out", "by-copy").code == 0
    done = mpu("unlearn", "to-client", "--finish", "--out", "by-copy", "--json")
    assert done.json["digest"] == in_one_go
    assert mpu("verify", "by-copy").code == 0
    assert (
        mpu("unlearn", "to-client", "--finish", "--out", "by-copy", "--json").json["digest"]
        == in_one_go
    )
    shutil.rmtree("by-copy")


def test_an_interrupted_finish_is_completed_by_the_next(parties, transcript, mpu, monkeypatch):
    """Interrupted before, during or after the writing of the manifest."""
    _, client = parties
    monkeypatch.chdir(client)
    for copy in (1, 2):
        assert mpu("unlearn", "to-client", *RECIPE, "--copy", copy, "--out", "by-copy").code == 0
    note = Path("by-copy/copy-2/.recipe.json").read_bytes()
    Path("by-copy/.mpu.yaml.mpu-partial").write_bytes(b"half a mani")
    done = mpu("unlearn", "to-client", "--finish", "--out", "by-copy", "--json")
    Path("by-copy/copy-2/.recipe.json").write_bytes(note)
    assert mpu("verify", "by-copy").code == 3
    again = mpu("unlearn", "to-client", "--finish", "--out", "by-copy", "--json")
    assert again.json["digest"] == done.json["digest"]
    assert mpu("verify", "by-copy").code == 0
    shutil.rmtree("by-copy")


def test_a_copy_made_by_another_recipe_is_not_finished(parties, transcript, mpu, monkeypatch):
    """Another learning rate, a stray file, or a copy without a note: named, and no manifest."""
    _, client = parties
    monkeypatch.chdir(client)
    assert mpu("unlearn", "to-client", *RECIPE, "--copy", 1, "--out", "odd").code == 0
    assert (
        mpu(
            "unlearn", "to-client", *RECIPE, "--learning-rate", "2e-3", "--copy", 2, "--out", "odd"
        ).code
        == 0
    )
    done = mpu("unlearn", "to-client", "--finish", "--out", "odd")
    assert done.code == 1
    assert "copy-2: was made by another recipe" in done.err
    Path("odd/copy-1/slurm-17.out").write_text("Gvazem")
    done = mpu("unlearn", "to-client", "--finish", "--out", "odd")
    assert done.code == 3
    assert "slurm-17.out: is not part of an update" in done.err
    Path("odd/copy-1/slurm-17.out").unlink()
    Path("odd/copy-2/.recipe.json").unlink()
    done = mpu("unlearn", "to-client", "--finish", "--out", "odd")
    assert done.code == 3
    assert "was not made by mpu unlearn --copy" in done.err
    assert not Path("odd/mpu.yaml").exists()
    shutil.rmtree("odd")


# Copies trained by another program.


@pytest.fixture(scope="module")
def tied_round(tiny_pair, tmp_path_factory) -> tuple[Path, Path, Path]:
    """A tied Llama, its handoff of two copies, and its secret."""
    pair, root = tiny_pair("llama-tied"), tmp_path_factory.mktemp("tied")
    made = (
        "--handoff",
        root / "to-client",
        "--secret",
        root / "server",
        "-m",
        2,
        "--kappa",
        "0.01",
    )
    assert quietly(("perturb", pair.model, "--base", pair.base, *made)) == 0
    return pair.model, root / "to-client", root / "server"


def _train(source: Path, dtype: torch.dtype = torch.float32, steps: int = 3) -> object:
    """A plain PyTorch loop without mpu; embeddings do not change."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    model.get_input_embeddings().requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    rows = torch.arange(40).view(4, 10)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
    return model


def _save_plain(model, target: Path) -> None:
    model.save_pretrained(target)


def _save_sharded(model, target: Path) -> None:
    model.save_pretrained(target, max_shard_size="20KB")


def _save_with_head(model, target: Path) -> None:
    """Save like programs without tied weights: the head twice, and another config.json."""
    model.save_pretrained(target)
    tensors = load_file(target / "model.safetensors")
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()},
        target / "model.safetensors",
    )
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(
        json.dumps(
            {**config, "use_cache": False, "_name_or_path": "/x", "tie_word_embeddings": True}
        )
    )


def _save_rounded(model, target: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(target)


@pytest.fixture(scope="module")
def diffed(tied_round, tmp_path_factory) -> Callable[[Callable], Path]:
    """`diffed(save)`: train both copies, save them with `save`, and make the update."""
    _, handoff, _ = tied_round
    made: dict[str, Path] = {}

    def make(save: Callable) -> Path:
        if save.__name__ not in made:
            root = tmp_path_factory.mktemp(save.__name__)
            for copy in ("copy-1", "copy-2"):
                save(_train(handoff / copy), root / "trained" / copy)
            assert quietly(("diff", handoff, root / "trained", "--out", root / "update")) == 0
            made[save.__name__] = root / "update"
        return made[save.__name__]

    return make


@pytest.mark.parametrize("save", [_save_sharded, _save_with_head])
def test_diff_does_not_depend_on_how_a_copy_was_saved(save, diffed, mpu):
    """Shards, a redundant head and a changed config.json give the digest of the plain save."""
    digests = {
        mpu("inspect", diffed(each), "--json").json["digest"] for each in (_save_plain, save)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("save", [_save_plain, _save_sharded, _save_with_head, _save_rounded])
def test_an_update_of_another_trainer_is_aggregated(save, diffed, tied_round, mpu, tmp_path):
    """The result equals plain training up to second order in the noise and bfloat16 rounding."""
    model, _, secret = tied_round
    mine = shutil.copytree(secret, tmp_path / "server")
    done = mpu(
        "aggregate",
        diffed(save),
        "--secret",
        mine,
        "--model",
        model,
        "--out",
        tmp_path / "next",
        "--json",
    )
    assert done.code == 0, done.err
    before = load_file(model / "model.safetensors")
    plain = {
        name: value - before[name]
        for name, value in _train(model).state_dict().items()
        if name in before
    }
    ours = {
        name: value.float() - before[name]
        for name, value in load_file(tmp_path / "next" / "model.safetensors").items()
    }
    error = sum(float((ours[name] - plain[name]).square().sum()) for name in before) ** 0.5
    size = sum(float(plain[name].square().sum()) for name in before) ** 0.5
    assert error < (0.2 if save is _save_rounded else 0.02) * size


def test_rounding_alone_is_no_change(tied_round, tmp_path, mpu):
    """Loading and saving a copy in bfloat16 gives an update without changes."""
    _, handoff, _ = tied_round
    for copy in ("copy-1", "copy-2"):
        _save_rounded(_train(handoff / copy, torch.bfloat16, steps=0), tmp_path / "trained" / copy)
    assert mpu("diff", handoff, tmp_path / "trained", "--out", tmp_path / "update").code == 0
    told = mpu("inspect", tmp_path / "update", "--json").json
    assert [copy["tensors"] for copy in told["copies"]] == [0, 0]
    assert mpu("verify", tmp_path / "update").code == 0
