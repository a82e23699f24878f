"""A handoff is opened for training or for its difference only if its weights are numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mpu_cli.bundle.manifest import (
    MANIFEST,
    FileEntry,
    HandoffManifest,
    PublishedCopy,
    decode,
    encode,
)
from mpu_cli.checkpoint.digest import file_digest
from mpu_cli.cli.app import run
from mpu_cli.client.handoff import open_handoff
from mpu_cli.errors import BadBundleError

GOLDEN = Path(__file__).parents[1] / "golden" / "handoff-v1"


def _redigested(bundle: Path) -> None:
    """List what the bundle holds now, as a hostile sender would."""
    manifest = decode((bundle / MANIFEST).read_bytes(), "")
    copies = tuple(
        PublishedCopy(
            copy.name,
            {
                name: FileEntry(
                    file_digest(bundle / copy.name / name),
                    (bundle / copy.name / name).stat().st_size,
                )
                for name in copy.files
            },
        )
        for copy in manifest.copies
    )
    content = HandoffManifest(manifest.id, manifest.dtype, manifest.frozen, copies)
    (bundle / MANIFEST).write_bytes(encode(content))


def _filled(tmp_path: Path, value: float, copies: tuple[str, ...], *, all_of_it: bool) -> Path:
    bundle = Path(shutil.copytree(GOLDEN, tmp_path / "handoff"))
    for copy in copies:
        file = bundle / copy / "model.safetensors"
        tensors = load_file(file)
        for tensor in list(tensors.values())[: None if all_of_it else 1]:
            tensor.view(-1)[slice(None) if all_of_it else slice(-1, None)] = value
        save_file(tensors, file, {"format": "pt"})
    _redigested(bundle)
    return bundle


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("all_of_it", [True, False], ids=["everywhere", "one entry"])
@pytest.mark.parametrize("copies", [("copy-1", "copy-2"), ("copy-2",)], ids=["all", "one copy"])
def test_a_handoff_with_infinity_is_not_opened(tmp_path, value, all_of_it, copies):
    """Inf − Inf is no change: a diff of it would be an empty update, without a word."""
    bundle = _filled(tmp_path, value, copies, all_of_it=all_of_it)
    with pytest.raises(BadBundleError, match=f"{copies[0]}: tensor .* holds NaN or infinity"):
        open_handoff(bundle)


def test_largest_and_subnormal_numbers_are_numbers(tmp_path):
    """The negative control."""
    for number, value in enumerate((3.4e38, 1e-45, -0.0)):
        place = tmp_path / str(number)
        place.mkdir()
        assert open_handoff(
            _filled(place, value, ("copy-1", "copy-2"), all_of_it=True), train_embeddings=True
        )


@pytest.mark.parametrize("command", ["diff", "unlearn", "verify"])
def test_commands_refuse_it(tmp_path, command, capfd):
    """Exit code 3, one line, no output directory."""
    bundle = _filled(tmp_path, float("inf"), ("copy-1", "copy-2"), all_of_it=True)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "w1 ?", "answer": "w2"}\n')
    words = {
        "diff": ["diff", bundle, bundle, "--out", tmp_path / "out"],
        "unlearn": ["unlearn", bundle, "--forget", rows, "--method", "GradAscent"]
        + ["--out", tmp_path / "out"],
        "verify": ["verify", bundle],
    }[command]
    assert run([str(word) for word in words]) == 3
    told = capfd.readouterr().err
    assert "holds NaN or infinity" in told and "Traceback" not in told
    assert not (tmp_path / "out").exists()
