"""Handoffs of a server that wants to harm its client: every digest in them is right.

A case changes the files of an honest copy; `seal` lists what lies there and signs nothing: the
hostile server is the one who writes the manifest.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from mpu_cli.bundle.manifest import MANIFEST, FileEntry, HandoffManifest, PublishedCopy, encode
from mpu_cli.bundle.read import read_handoff

Case = Callable[[Path, Path], None]
"""Changes the copy's directory; the second path is the canary that any code of it would touch."""


def seal(handoff: Path, honest: HandoffManifest) -> None:
    """Write the manifest of what is there."""
    copies = []
    for copy in honest.copies:
        files = {}
        for path in sorted((handoff / copy.name).rglob("*")):
            if path.is_file():
                digest = hashlib.sha256()
                with path.open("rb") as file:
                    while block := file.read(1 << 22):
                        digest.update(block)
                name = str(path.relative_to(handoff / copy.name))
                files[name] = FileEntry(digest.hexdigest(), path.stat().st_size)
        copies.append(PublishedCopy(copy.name, files))
    manifest = HandoffManifest(honest.id, honest.dtype, honest.frozen, tuple(copies))
    (handoff / MANIFEST).write_bytes(encode(manifest))


def make(honest: Path, root: Path, case: Case) -> Path:
    """A hostile handoff below `root`."""
    manifest = read_handoff(honest)
    handoff = Path(shutil.copytree(honest, root / "handoff"))
    case(handoff / manifest.copies[0].name, root / "canary")
    seal(handoff, manifest)
    return handoff


def json_file(name: str, **changes: object) -> Case:
    """Keys of a JSON file of the copy."""

    def change(copy: Path, _: Path) -> None:
        path = copy / name
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**before, **changes}))

    return change


def tokenizer(**changes: object) -> Case:
    """Keys of tokenizer.json."""
    return json_file("tokenizer.json", **changes)


def template(text: str) -> Case:
    """A chat template; the canary's path stands for CANARY in it."""

    def change(copy: Path, canary: Path) -> None:
        (copy / "chat_template.jinja").write_text(text.replace("CANARY", str(canary)))

    return change


def code(name: str, key: str, file: str, **more: object) -> Case:
    """Python code beside a JSON file that names it, as remote code is named."""

    def change(copy: Path, canary: Path) -> None:
        text = f"open({str(canary)!r}, 'w').close()\nclass Evil:\n    pass\n"
        (copy / "evil.py").write_text(text)
        json_file(file, auto_map={key: name}, **more)(copy, canary)

    return change


class _Touch:
    """Unpickled, it would touch a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return open, (str(self.canary), "w")


def pickled(name: str, *, alone: bool) -> Case:
    """A pickle where weights or settings of a trainer lie, with or without the real weights."""

    def change(copy: Path, canary: Path) -> None:
        (copy / name).write_bytes(pickle.dumps(_Touch(canary)))
        if alone:
            (copy / "model.safetensors").unlink()

    return change


def _header(copy: Path) -> tuple[dict, bytes]:
    data = (copy / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _write(copy: Path, header: dict, body: bytes, size: int | None = None) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = copy / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    if size is not None:
        with path.open("r+b") as file:
            file.truncate(8 + len(text) + size)  # sparse: it needs no disk


def promised(count: int) -> Case:
    """A tensor of `count` float32 that the file does not hold."""

    def change(copy: Path, _: Path) -> None:
        header, body = _header(copy)
        end = len(body) + 4 * count
        header["model.extra.weight"] = {
            "dtype": "F32",
            "shape": [count],
            "data_offsets": [len(body), end],
        }
        _write(copy, header, body)

    return change


def large(mebibytes: int, **config: object) -> Case:
    """Weights of zeros, sparse on disk, whose shapes the config claims too."""

    def change(copy: Path, canary: Path) -> None:
        header, _ = _header(copy)
        count = mebibytes << 18
        header["model.embed_tokens.weight"]["shape"] = [count // 32, 32]
        for name in list(header):
            if name != "__metadata__":
                first, last = header[name]["data_offsets"]
                size = 4 * count if name == "model.embed_tokens.weight" else last - first
                header[name]["size"] = size
        place = 0
        for name, entry in header.items():
            if name != "__metadata__":
                size = entry.pop("size")
                entry["data_offsets"] = [place, place + size]
                place += size
        _write(copy, header, b"", place)
        json_file("config.json", vocab_size=count // 32, **config)(copy, canary)

    return change


DOUBLE = {"type": "Replace", "pattern": {"Regex": "."}, "content": "aa"}
ESCAPE = (
    "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}"
    "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    "{% for c in [].__class__.__base__.__subclasses__() %}"
    "{% if c.__name__ == 'Popen' %}{{ c(['touch', 'CANARY']) }}{% endif %}{% endfor %}"
)
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}x"
FLOOD = "{% for a in range(30000) %}{{ 'x' * 10000 }}{% endfor %}"

REFUSED: dict[str, Case] = {
    "pickled weights alone": pickled("pytorch_model.bin", alone=True),
    "pickled weights beside the real ones": pickled("pytorch_model.bin", alone=False),
    "pickled training arguments": pickled("training_args.bin", alone=False),
    "remote code of a model": code("evil.Evil", "AutoModelForCausalLM", "config.json"),
    "remote code of a configuration": code("evil.Evil", "AutoConfig", "config.json"),
    "remote code of a tokenizer": code("evil.Evil", "AutoTokenizer", "tokenizer_config.json"),
    "remote code on the Hub": json_file(
        "config.json", auto_map={"AutoModelForCausalLM": "org/code--evil.Evil"}
    ),
    "a Python file that nothing names": lambda copy, canary: (copy / "__init__.py").write_text(
        f"open({str(canary)!r}, 'w')"
    ),
    "a template that leaves the sandbox": template(ESCAPE),
    "a template that loops": template(LOOP),
    "a template that prints 300 MB": template(FLOOD),
    "a tokenizer that doubles a text 30 times": tokenizer(
        normalizer={"type": "Sequence", "normalizers": [DOUBLE] * 30}
    ),
    "ten to the nine layers": json_file("config.json", num_hidden_layers=10**9),
    "a hidden size of ten to the nine": json_file("config.json", hidden_size=10**9),
    "a vocabulary of five million": json_file("config.json", vocab_size=5_000_000),
    "an unknown model type": json_file("config.json", model_type="evil"),
    "a custom quantization": json_file(
        "config.json", quantization_config={"quant_method": "evil", "modules": ["os"]}
    ),
    "ten terabytes promised": promised(10**13 // 4),
    "a tensor nobody knows": lambda copy, canary: promised(0)(copy, canary),
}
"""`mpu unlearn` refuses these."""
HARMLESS: dict[str, Case] = {
    # Some texts make the tokenizers library panic on it: tests/modeling/test_tokenizer_trial.py.
    "a tokenizer with an empty pattern": tokenizer(
        normalizer={"type": "Replace", "pattern": {"String": ""}, "content": "x"}
    ),
    "attention from the Hub": json_file("config.json", _attn_implementation="org/kernel"),
    "kernels from the Hub": json_file(
        "config.json", use_kernels=True, kernel_config={"RMSNorm": "org/kernel:RMSNorm"}
    ),
    "trust_remote_code": json_file("config.json", trust_remote_code=True),
    "a name on the Hub": json_file("config.json", _name_or_path="org/evil"),
    "twelve million labels": json_file("config.json", num_labels=12_000_000),
    "a generation file with code": json_file(
        "generation_config.json", custom_generate="org/evil", trust_remote_code=True
    ),
}
"""Either refused, or trained without any effect of it."""
