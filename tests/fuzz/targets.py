"""The readers of what comes from others, each with valid seeds."""

from __future__ import annotations

import io
import json
import shutil
import struct
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle import canonical
from mpu_cli.bundle.adapter import AdapterConfig, decode_config, encode_config
from mpu_cli.bundle.manifest import decode
from mpu_cli.bundle.signatures.allowed_signers import AllowedSigners
from mpu_cli.bundle.signatures.sshsig import read_signature
from mpu_cli.bundle.tensors import shapes
from mpu_cli.bundle.unpack import as_directory
from mpu_cli.checkpoint.header import read_header
from mpu_cli.checkpoint.model import open_checkpoint, read_index
from mpu_cli.checkpoint.side_files import check_side_files, copy_side_files
from mpu_cli.cli.config import _read as read_config_file
from mpu_cli.cli.parse_only import commands
from mpu_cli.client.masks.group import read_group
from mpu_cli.data.rows import read_rows
from mpu_cli.errors import BadBundleError
from mpu_cli.evaluation.records.read import read_record
from mpu_cli.experiment.plan.read import read_plan
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.secrets.secret import write_signed
from round_inputs import PLAN

GOLDEN = Path(__file__).parents[1] / "golden"
ROW = {"question": "w1 w2 ?", "answer": "w3 w4 ."}
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@dataclass(frozen=True)
class Target:
    """A reader, and valid inputs to mutate."""

    name: str
    seeds: Sequence[bytes]
    read: Callable[[bytes, Path], object]
    """The input, and a directory of the target's own."""
    share: float = 1.0
    """How many inputs it gets, relative to the others; slow readers get fewer."""


def _golden(place: str) -> bytes:
    return sorted(GOLDEN.glob(place))[0].read_bytes()


def _manifest(data: bytes, place: Path) -> object:
    return decode(data, "mpu.yaml")


def _digested_manifest(data: bytes, place: Path) -> object:
    """The mutated content with a digest that is right again: past the digest, into the schema."""
    content = _content(data)
    return decode(canonical.dump({**content, "digest": canonical.digest(content)}), "mpu.yaml")


def _content(data: bytes) -> dict:
    """What a mutated text means, if it means anything that can be written again."""
    try:
        content = yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if isinstance(content, dict):
            canonical.dump(content)
            return content
    except Exception as error:  # of the mutant, not of a reader
        raise BadBundleError("no content") from error
    raise BadBundleError("no content")


def _secret(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, place: Path) -> object:
        root = _secret_copy(place)
        file = sorted(root.glob(name))[0]
        file.write_bytes(data)
        try:
            return Lineage.read(root)
        finally:
            shutil.rmtree(root)

    return read


def _signed_secret(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, place: Path) -> object:
        content = _content(data)
        root = _secret_copy(place)
        file = sorted(root.glob(name))[0]
        master = yaml.safe_load((root / "secret.yaml").read_text())["master"]
        content.pop("hmac", None)
        try:
            write_signed(file, content, bytes.fromhex(master))
            return Lineage.read(root)
        finally:
            shutil.rmtree(root)

    return read


def _secret_copy(place: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "secret-v1", place / "secret"))


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    def written(data: bytes, place: Path) -> object:
        path = place / name
        path.write_bytes(data)
        return read(path)

    return written


def _header(data: bytes, place: Path) -> object:
    """A header with its right length, before the golden model's data."""
    _, rest = _split()
    path = place / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(data)) + data + rest)
    return read_header(path)


def _split() -> tuple[bytes, bytes]:
    data = _golden("model-v1/model.safetensors")
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 : 8 + length], data[8 + length :]


def _model(name: str) -> Callable[[bytes, Path], object]:
    """A whole model directory in which one file is mutated."""

    def read(data: bytes, place: Path) -> object:
        root = place / "model"
        if not root.exists():
            shutil.copytree(GOLDEN / "model-v1", root)
        (root / name).write_bytes(data)
        model = open_checkpoint(root)
        check_side_files(root)
        read_layout(model.config, shapes(model.tensors), root)
        out = place / "copied"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        return copy_side_files(model, out, "float32")

    return read


def _record(name: str) -> Callable[[bytes, Path], object]:
    def read(data: bytes, place: Path) -> object:
        (place / "summary.json").write_bytes(_SUMMARY)
        (place / "items.jsonl").write_bytes(_ITEMS)
        (place / name).write_bytes(data)
        return read_record(place)

    return read


_SUMMARY = json.dumps(
    {
        "kind": "evaluation",
        "format": 1,
        "model": {"name": "m", "digest": "ab" * 32},
        "settings": {"seed": 0},
        "sets": {"forget": {"role": "forget", "rows": 2, "digest": "x", "multiple_choice": False}},
        "left_out": {"forget": {"rouge": "no texts"}},
        "values": {"forget": {"answer_probability": {"mean": 0.5}}},
    }
).encode()
_ITEMS = b"".join(
    json.dumps({"set": "forget", "row": row, "answer_probability": 0.5}).encode() + b"\n"
    for row in range(2)
)
_OPEN_UNLEARNING = json.dumps(
    {
        "forget_Q_A_Prob": {
            "agg_value": 0.5,
            "value_by_index": {
                "0": {"prob": 0.5, "avg_loss": 0.7},
                "1": {"prob": 0.5, "avg_loss": 0.7},
            },
        },
        "model_utility": {"agg_value": 0.5},
    }
).encode()


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path in sorted((GOLDEN / "update-v1").rglob("*")):
            archive.add(path, str(path.relative_to(GOLDEN)), recursive=False)
    return out.getvalue()


def _untar(path: Path) -> object:
    with as_directory(path) as place:
        return sorted(place.rglob("*"))


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({"question": ["a b", "c"], "answer": ["d", "e"]}), out)
    return out.getvalue()


def _lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


_INDEX = json.dumps(
    {
        "metadata": {"total_size": 64},
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        },
    }
).encode()
_ADAPTER = encode_config(AdapterConfig(4, 8.0, ("model.layers.0.self_attn.q_proj",), False))
_GROUP = b"".join(
    f"{name} {key}=\n".encode()
    for name, key in (
        ("lab", "FG2WwLRn99jlS3MTWYs+oS1ju1U4Lu5ZiWNzYOfM5GM"),
        ("clinic", "rLuBLlYoMqKgLUGlajaJPT6oxef7PlfCjaFy1sWNqW4"),
    )
)
_COMMANDS = commands()

TARGETS = (
    Target("manifest", [_golden("*/mpu.yaml"), _golden("update-v1/mpu.yaml")], _manifest),
    Target(
        "manifest, digest right",
        [_golden("*/mpu.yaml"), _golden("update-v1/mpu.yaml")],
        _digested_manifest,
    ),
    Target("secret", [_golden("secret-v1/secret.yaml")], _secret("secret.yaml"), 0.3),
    Target(
        "secret, signed", [_golden("secret-v1/secret.yaml")], _signed_secret("secret.yaml"), 0.3
    ),
    Target(
        "handoff's record, signed",
        [_golden("secret-v1/handoffs/*.yaml")],
        _signed_secret("handoffs/*.yaml"),
        0.5,
    ),
    Target(
        "model's record, signed",
        [_golden("secret-v1/models/*.yaml")],
        _signed_secret("models/*.yaml"),
        0.5,
    ),
    Target(
        "safetensors file",
        [_golden("model-v1/model.safetensors"), _golden("update-v1/copy-1/*.safetensors")],
        _file("model.safetensors", read_header),
    ),
    Target("safetensors header", [_split()[0]], _header, 2.0),
    Target("index", [_INDEX], _file("model.safetensors.index.json", read_index)),
    Target("config.json", [_golden("model-v1/config.json")], _model("config.json"), 2.0),
    Target(
        "generation_config.json",
        [b'{"eos_token_id": 1, "temperature": 0.7, "_from_model_config": true}'],
        _model("generation_config.json"),
    ),
    Target(
        "tokenizer_config.json",
        [b'{"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "x", "eos_token": "a"}'],
        _model("tokenizer_config.json"),
    ),
    Target(
        "adapter_config.json", [_ADAPTER], lambda data, place: decode_config(data, "a.json"), 2.0
    ),
    Target(
        "JSONL rows",
        [_lines(ROW, ROW), _lines(CHAT), _lines({"text": "a"})],
        _file("x.jsonl", read_rows),
    ),
    Target("JSON rows", [json.dumps([ROW, ROW]).encode()], _file("x.json", read_rows)),
    Target("CSV rows", [b'question,answer\nw1,w2\n"a, b",c\n'], _file("x.csv", read_rows)),
    Target("Parquet rows", [_parquet()], _file("x.parquet", read_rows)),
    Target("plan", [PLAN.encode()], _file("plan.yaml", lambda path: read_plan(path, _COMMANDS))),
    Target(
        "--config file",
        [b"method: GradDiff\nmax_steps: 2\nseed: 1\n"],
        _file("c.yaml", read_config_file),
    ),
    Target("record's summary", [_SUMMARY], _record("summary.json")),
    Target("record's rows", [_ITEMS], _record("items.jsonl")),
    Target(
        "open-unlearning record",
        [_OPEN_UNLEARNING],
        _file("TOFU_EVAL.json", read_record),
    ),
    Target(
        "signature",
        [_golden("ssh/ed25519.ssh-keygen.sig"), _golden("ssh/ecdsa-256.mpu.sig")],
        lambda data, place: read_signature(data, "mpu.yaml.sig"),
    ),
    Target(
        "allowed signers",
        [_golden("ssh/allowed_signers")],
        lambda data, place: AllowedSigners.parse(data, "allowed_signers"),
    ),
    Target("tar file", [_tar()], _file("bundle.tar", _untar)),
    Target("mask group", [_GROUP], _file("group.txt", read_group)),
)
