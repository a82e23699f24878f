"""Ways to break files, and to make digests and HMACs right again after the damage."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mpu_cli.bundle import canonical
from mpu_cli.server.secrets.secret import write_signed

Content = dict[str, Any]


def truncate(path: Path, keep: float) -> None:
    """Keep a share of a file's bytes; a negative number cuts that many bytes off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(keep)] if keep < 0 else data[: int(keep * len(data))])


def flip(path: Path, place: float = 0.5, bit: int = 0) -> None:
    """Flip one bit of the byte at a share of the file."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1 << bit
    path.write_bytes(data)


def replace(path: Path, old: str, new: str) -> None:
    """Replace a text that must be there, once."""
    text = path.read_text(encoding="utf-8")
    assert old in text, (path, old)
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def swap(first: Path, second: Path) -> None:
    """Exchange two files or directories."""
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def edit_json(path: Path, **changes: object) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Manifests of bundles


def manifest_of(bundle: Path) -> Content:
    """The content of a manifest."""
    return yaml.safe_load((bundle / "mpu.yaml").read_text())


def write_manifest(bundle: Path, content: Content) -> None:
    """The canonical bytes of any content, with a digest that is right, even if nothing else is."""
    content = {key: value for key, value in content.items() if key != "digest"}
    digest = hashlib.sha256(canonical.dump(content)).hexdigest()
    (bundle / "mpu.yaml").write_bytes(canonical.dump({**content, "digest": digest}))


def rewrite(bundle: Path, change: Callable[[Content], object]) -> None:
    """Change a manifest's content and make its own digest right again."""
    content = manifest_of(bundle)
    change(content)
    write_manifest(bundle, content)


def redigest(bundle: Path) -> None:
    """List the files that are there with their digests: what a hostile sender does."""
    content = manifest_of(bundle)
    for copy in content["copies"]:
        directory = bundle / copy["name"]
        copy["files"] = {
            str(file.relative_to(directory)): {
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "bytes": file.stat().st_size,
            }
            for file in sorted(directory.rglob("*"))
            if file.is_file() and not file.is_symlink()
        }
    write_manifest(bundle, content)


def of_published(handoff: Path) -> dict[str, str]:
    """By copy, the digest by which an update names a published copy."""
    return {
        copy["name"]: hashlib.sha256(canonical.dump(copy["files"])).hexdigest()
        for copy in manifest_of(handoff)["copies"]
    }


# Safetensors


def parts(path: Path) -> tuple[Content, bytes]:
    """The header and the data of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_parts(
    path: Path, header: Content | bytes, data: bytes, length: int | None = None
) -> None:
    """A safetensors file with any header, and any claim about its length."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def edit_header(path: Path, change: Callable[[Content], object]) -> None:
    """Change a header and leave the data."""
    header, data = parts(path)
    change(header)
    write_parts(path, header, data)


def names_of(path: Path) -> list[str]:
    """The tensors of a file, in the order of their data."""
    header, _ = parts(path)
    header.pop("__metadata__", None)
    return sorted(header, key=lambda name: header[name]["data_offsets"])


def fill(path: Path, word: bytes, name: str | None = None) -> None:
    """Fill a tensor (default: the largest) with one repeated number, given as its bytes."""
    header, data = parts(path)
    header.pop("__metadata__", None)
    if name is None:
        name = max(names_of(path), key=lambda one: np.diff(header[one]["data_offsets"])[0])
    begin, end = header[name]["data_offsets"]
    header_bytes = path.read_bytes()[: -len(data)]
    filled = word * ((end - begin) // len(word))
    path.write_bytes(header_bytes + data[:begin] + filled + data[end:])


def fill_all(path: Path, word: bytes) -> None:
    """Fill every tensor."""
    for name in names_of(path):
        fill(path, word, name)


# Secrets


def resign(file: Path, change: Callable[[Content], object], master: bytes | None = None) -> None:
    """Change a file of a secret and sign it again, as whoever has the secret could."""
    content = yaml.safe_load(file.read_text())
    content.pop("hmac")
    change(content)
    if master is None:
        secret = file.parent if file.name == "secret.yaml" else file.parent.parent
        text = yaml.safe_load((secret / "secret.yaml").read_text())["master"]
        master = bytes.fromhex(content.get("master", text))
    write_signed(file, content, master)


def sign_bytes(file: Path, text: str) -> None:
    """Write any text into a file of a secret, with the HMAC of the content that it parses to."""
    secret = file.parent if file.name == "secret.yaml" else file.parent.parent
    master = bytes.fromhex(yaml.safe_load((secret / "secret.yaml").read_text())["master"])
    key = hmac.digest(master, b"mpu 1 records", "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    file.write_text(f'{text}"hmac": "{signature}"\n')


def only(folder: Path, pattern: str = "*.yaml") -> Path:
    """The first file of a folder."""
    return sorted(folder.glob(pattern))[0]
