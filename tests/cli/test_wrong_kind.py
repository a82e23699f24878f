"""Other things in place of a model, a handoff, an update or a secret, for every command."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file


def _tar(path: Path, source: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        archive.add(source, "to-client")
    return path


def _hub_root(place: Path, model: Path) -> Path:
    root = place / "models--org--name"
    shutil.copytree(model, root / "snapshots" / "abc")
    (root / "blobs").mkdir()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    return root


def _fill(path: Path, **files: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


def _without_weights(r: SimpleNamespace, **files: str) -> Path:
    model = Path(shutil.copytree(r.model, r.place / "model"))
    (model / "model.safetensors").unlink()
    return _fill(model, **files)


def _copies(r: SimpleNamespace) -> Path:
    copies = Path(shutil.copytree(r.handoff, r.place / "trained"))
    (copies / "mpu.yaml").unlink()
    return copies


THINGS = {
    "handoff": (lambda r: r.handoff, ("is a handoff",)),
    "update": (lambda r: r.update, ("is an update",)),
    "secret": (lambda r: r.secret, ("is a server's secret directory",)),
    "record": (
        lambda r: _fill(r.place / "record", items__jsonl="", summary__json="{}"),
        ("is an evaluation record",),
    ),
    "adapter": (
        lambda r: _fill(r.place / "a", adapter_config__json="{}", adapter_model__safetensors=""),
        ("is a PEFT adapter without its model", "merge_and_unload"),
    ),
    "adapter beside a config.json": (
        lambda r: _without_weights(r, adapter_config__json="{}", adapter_model__safetensors=""),
        ("PEFT adapter", "merge_and_unload"),
    ),
    "GGUF file": (
        lambda r: _fill(r.place / "g", x__gguf="GGUF") / "x.gguf",
        ("is a GGUF file", "gguf_file='x.gguf'"),
    ),
    "GGUF directory": (
        lambda r: _fill(r.place / "g", x__gguf="GGUF"),
        ("holds only GGUF files", "dequantise"),
    ),
    "root of the Hub's cache": (
        lambda r: _hub_root(r.place, r.model),
        ("Hub cache", "snapshots/abc"),
    ),
    "its snapshots": (
        lambda r: _hub_root(r.place, r.model) / "snapshots",
        ("Hub cache", "snapshots/abc"),
    ),
    "one level too high": (
        lambda r: shutil.copytree(r.handoff, r.place / "to-client" / "to-client").parent,
        ("to-client/to-client", "give "),
    ),
    "empty directory": (
        lambda r: _fill(r.place / "empty"),
        ("is an empty directory", "unpack it again"),
    ),
    "tar file of a handoff": (
        lambda r: _tar(r.place / "to-client.tar", r.handoff),
        ("is an archive", "tar -xf"),
    ),
    "packed tar file": (
        lambda r: _tar(r.place / "to-client.tar.gz", r.update, "w:gz"),
        ("is an archive", "tar -xf"),
    ),
    "directory with a tar file": (
        lambda r: _tar(_fill(r.place / "mail") / "x.tar", r.update).parent,
        ("holds an archive (x.tar)", "tar -xf"),
    ),
    "manifest": (
        lambda r: r.handoff / "mpu.yaml",
        ("is the manifest of a handoff or an update", "give the directory"),
    ),
    "file of the secret": (
        lambda r: r.secret / "secret.yaml",
        ("is a file of a server's secret", "give the directory"),
    ),
    "weights": (
        lambda r: r.model / "model.safetensors",
        ("is a file of a model", "give the directory"),
    ),
    "pickle-only model": (
        lambda r: _without_weights(r, pytorch_model__bin="x"),
        ("only pickled weights (pytorch_model.bin)", "convert it to safetensors"),
    ),
    "directory of copies": (_copies, ("holds copies (copy-1, copy-2)", "copy-1")),
    "model without weights": (_without_weights, ("neither model.safetensors nor", "again")),
    "half-copied model": (
        lambda r: _fill(_without_weights(r), __model__safetensors__Xy12ab="x"),
        ("partial transfer or a backup of model.safetensors", "copy "),
    ),
    "other directory": (
        lambda r: _fill(r.place / "other", thesis__tex="x"),
        ("holds no config.json and no other file that mpu knows",),
    ),
    "other file": (
        lambda r: _fill(r.place / "other", thesis__tex="x") / "thesis.tex",
        ("is a file",),
    ),
    "nothing": (lambda r: r.place / "nowhere", ("no such",)),
}

COMMANDS = {
    "perturb": lambda r, x: (
        "perturb",
        x,
        "--handoff",
        r.place / "new",
        "--secret",
        r.place / "fresh",
    ),
    "perturb --base": lambda r, x: (
        "perturb",
        r.model,
        "--base",
        x,
        "--handoff",
        r.place / "new",
        "--secret",
        r.place / "fresh",
    ),
    "eval": lambda r, x: ("eval", x, "--forget", r.forget, "--no-generate"),
    "aggregate --model": lambda r, x: (
        "aggregate",
        r.update,
        "--model",
        x,
        "--secret",
        r.secret,
        "--out",
        r.place / "new",
    ),
    "aggregate": lambda r, x: (
        "aggregate",
        x,
        "--model",
        r.model,
        "--secret",
        r.secret,
        "--out",
        r.place / "new",
    ),
    "aggregate --secret": lambda r, x: (
        "aggregate",
        r.update,
        "--model",
        r.model,
        "--secret",
        x,
        "--out",
        r.place / "new",
    ),
    "unlearn": lambda r, x: (
        "unlearn",
        x,
        "--forget",
        r.forget,
        "--method",
        "GradAscent",
        "--out",
        r.place / "new",
    ),
    "diff": lambda r, x: ("diff", x, r.handoff, "--out", r.place / "new"),
    "inspect": lambda r, x: ("inspect", x),
    "verify": lambda r, x: ("verify", x),
    **{
        f"verify --expect {kind}": lambda r, x, kind=kind: ("verify", x, "--expect", kind)
        for kind in ("handoff", "update", "secret")
    },
    "verify --expect model": lambda r, x: ("verify", x, "--expect", "model"),
}
TAKES = {
    "handoff": {"unlearn", "diff", "inspect", "verify", "verify --expect handoff"},
    "update": {"aggregate", "inspect", "verify", "verify --expect update"},
    "tar file of a handoff": {"unlearn", "diff", "inspect", "verify", "verify --expect handoff"},
    "secret": {"aggregate --secret", "inspect", "verify", "verify --expect secret"},
    "record": {"inspect"},
}
INSIDE_A_TAR = (
    "aggregate",
    "verify --expect update",
    "verify --expect secret",
    "verify --expect model",
)
"""These look into a tar file that was given alone, and say what they find."""
BROKEN_MODELS = (
    "adapter beside a config.json",
    "pickle-only model",
    "model without weights",
    "half-copied model",
)
WANT_A_MODEL = (
    "perturb",
    "perturb --base",
    "eval",
    "aggregate --model",
    "unlearn",
    "inspect",
    "verify",
    "verify --expect model",
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("thing", THINGS)
def test_every_command_names_the_given_thing(mpu, finished_round, tmp_path, thing, command):
    """Exit 3, one line that says what it is, a hint, and nothing written; the same with --json."""
    if command in TAKES.get(thing, ()):
        return
    make, words = THINGS[thing]
    r = SimpleNamespace(
        place=tmp_path,
        **{name: getattr(finished_round, name) for name in finished_round.__dataclass_fields__},
    )
    arguments = COMMANDS[command](r, make(r))
    done = mpu(*arguments)
    assert (done.code, done.out) == (3, ""), done.err
    lines = [line for line in done.err.splitlines() if not line.startswith("mpu: note")]
    assert len(lines) <= 2, done.err
    assert lines[0].startswith("mpu: error: ")
    wanted = (
        ("is a model directory",)
        if thing in BROKEN_MODELS and command not in WANT_A_MODEL
        else words
    )
    wanted = (
        ("to-client.tar: is a handoff",)
        if thing == "tar file of a handoff" and command in INSIDE_A_TAR
        else wanted
    )
    assert all(word in done.err for word in wanted), done.err
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "fresh").exists()


def test_the_right_kind_is_accepted(mpu, finished_round):
    """The pairs that the table skips are not errors."""
    for thing in ("handoff", "update", "secret"):
        for command in ("inspect", "verify", f"verify --expect {thing}"):
            assert mpu(*COMMANDS[command](finished_round, getattr(finished_round, thing))).code == 0


@pytest.mark.parametrize("kind", ["handoff", "update"])
def test_a_folder_whose_case_changed_in_transit_is_named(mpu, own_round, kind):
    """A file system or an archive turned copy-1 into Copy-1: the hint says to rename it."""
    path = getattr(own_round, kind)
    (path / "copy-1").rename(path / "Copy-1")
    done = mpu("verify", path)
    assert done.code == 3
    assert (
        f"{path / 'Copy-1'}: differs from the listed copy-1 only in the case of letters" in done.err
    )
    assert "rename it to copy-1" in done.err
    (path / "Copy-1").rename(path / "copy-1")
    assert mpu("verify", path).code == 0


@pytest.mark.parametrize(
    "rest",
    [
        ".{}.Xy12ab",
        "{}.part",
        "{}.partial",
        "{}.filepart",
        "{}.crdownload",
        "{}.incomplete",
        "{}.tmp",
        "{}~",
        ".{}~",
    ],
)
def test_a_partial_transfer_is_named(mpu, own_round, rest):
    """Of rsync, scp, wget or a browser: remove it, or copy the file again if it is missing."""
    folder = own_round.update / "copy-2"
    left = folder / rest.format("delta.safetensors")
    shutil.copy(folder / "delta.safetensors", left)
    done = mpu("verify", own_round.update)
    assert done.code == 3
    assert f"{left}: is a partial transfer or a backup of delta.safetensors" in done.err
    assert f"remove {left.name}" in done.err
    (folder / "delta.safetensors").unlink()
    done = mpu("verify", own_round.update)
    assert "copy delta.safetensors again" in done.err


def test_another_stray_file_is_to_be_removed(mpu, own_round):
    """A name that is like none of the listed ones."""
    (own_round.handoff / "copy-1" / "x.abc123").write_bytes(b"")
    done = mpu("verify", own_round.handoff)
    assert "x.abc123: is not listed in mpu.yaml" in done.err
    assert "remove it" in done.err


def test_shards_with_unusual_names_are_read(mpu, own_round):
    """The index decides for eval too; transformers' own loader would read them as pickles."""
    model, shard = own_round.model, "model.safetensors-00001-of-00001"
    names = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model / shard)
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, shard)})
    )
    done = mpu("eval", model, "--forget", own_round.forget, "--no-generate")
    assert done.code == 0, done.err
