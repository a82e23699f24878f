"""Write requirements/*.txt: the versions of constraints.txt with the SHA-256 of every file.

`uv` (https://docs.astral.sh/uv) resolves for all platforms and asks the package index for the
hashes; the index itself is named nowhere in the files. The CPU build of torch comes from another
index, so its wheels are given as files:

    python tools/write_hashes.py torch-2.13.0+cpu-*.whl
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "requirements"
OF_TORCH = re.compile(r"(torch|triton|nvidia-|cuda-)")
"""torch, and what only its CUDA build needs."""
_UV = [
    *("uv", "pip", "compile", "--universal", "--python-version", "3.11.5", "--generate-hashes"),
    *("--no-header", "--no-annotate", "--no-emit-index-url", "--quiet"),
]


def resolve(*arguments: str) -> dict[str, str]:
    """The requirements that uv finds, by package: a line with the version, and lines with hashes.

    Args:
        arguments: further arguments of `uv pip compile`.
    """
    done = subprocess.run(
        [*_UV, "pyproject.toml", "-c", "constraints.txt", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return by_package(done.stdout)


def by_package(text: str) -> dict[str, str]:
    """The parts of a requirements file, one for each package."""
    parts = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    return {part.split("==")[0]: part.rstrip() for part in parts if "==" in part}


def write(name: str, about: str, parts: dict[str, str]) -> None:
    """Write one file."""
    lines = [f"# {about} Made by tools/write_hashes.py.", *(parts[key] for key in sorted(parts))]
    (TARGET / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(wheels: list[str]) -> None:
    """Write the four files; `wheels` are those of torch's CPU build."""
    TARGET.mkdir(exist_ok=True)
    version = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert version is not None
    for name, about, extras in (
        ("run.txt", "What pip install . needs, without torch.", ()),
        ("dev.txt", "What make needs, without torch.", ("--extra", "dev")),
    ):
        found = resolve("requirements/build.in", *extras)
        write(name, about, {key: part for key, part in found.items() if not OF_TORCH.match(key)})
    cuda = {key: part for key, part in found.items() if OF_TORCH.match(key)}
    write("torch-cuda.txt", "torch from PyPI: on Linux the CUDA build and its libraries.", cuda)
    hashes = [
        f"    --hash=sha256:{hashlib.sha256(Path(wheel).read_bytes()).hexdigest()}"
        for wheel in sorted(wheels)
    ]
    cpu = " \\\n".join([f"torch=={version[1]}+cpu", *hashes])
    about = f"torch from PyTorch's CPU index: {len(hashes)} of its wheels."
    write("torch-cpu.txt", about, {"torch": cpu})


if __name__ == "__main__":
    main(sys.argv[1:])
