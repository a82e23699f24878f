"""SSH signatures of other manifests, for other purposes, cut, edited, or not regular files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mpu_cli.bundle.signatures.private_key import open_signing_key
from testkit.case import Case
from testkit.commands import COMMANDS
from testkit.damage import rewrite
from testkit.world import World

KEY = Path(__file__).parents[2] / "golden" / "ssh" / "ed25519"
SIG = "mpu.yaml.sig"


def _signature(bundle: Path, purpose: str) -> bytes:
    key = bundle.parent / "signing-key"
    key.write_bytes(KEY.read_bytes())
    key.chmod(0o600)  # git keeps no modes
    return open_signing_key(key).sign((bundle / "mpu.yaml").read_bytes(), purpose)


def _signed(x: Path, purpose: str = "") -> None:
    own = "mpu-update-v1" if "update" in x.name else "mpu-handoff-v1"
    (x / SIG).write_bytes(_signature(x, purpose or own))


def _then(change: Callable[[Path], object]):
    """Signed as it should be, then damaged."""

    def damage(x: Path, w: World) -> None:
        _signed(x)
        change(x)

    return damage


def _bytes(change: Callable[[bytes], bytes]):
    return _then(lambda x: (x / SIG).write_bytes(change((x / SIG).read_bytes())))


def _flip(data: bytes) -> bytes:
    """Another letter near the end, where the signature itself is."""
    at = data.rindex(b"\n-----END") - 20
    return data[:at] + (b"A" if data[at : at + 1] != b"A" else b"B") + data[at + 1 :]


def _replayed(x: Path, w: World) -> None:
    """The signature of another bundle by the same key."""
    other = w.foreign_update if "update" in x.name else w.foreign_handoff
    own = "mpu-update-v1" if "update" in x.name else "mpu-handoff-v1"
    key = x.parent / "signing-key"
    key.write_bytes(KEY.read_bytes())
    key.chmod(0o600)
    data = (other / "mpu.yaml").read_bytes()
    (x / SIG).write_bytes(open_signing_key(key).sign(data, own))


def _other_manifest(x: Path) -> None:
    rewrite(x, lambda content: content["copies"].reverse())


def _pipe(x: Path) -> None:
    (x / SIG).unlink()
    os.mkfifo(x / SIG)


def _folder(x: Path) -> None:
    (x / SIG).unlink()
    (x / SIG).mkdir()


def _link(x: Path) -> None:
    (x / SIG).rename(x.parent / "elsewhere.sig")
    (x / SIG).symlink_to(x.parent / "elsewhere.sig")


NOT_ONE = {
    "empty": _bytes(lambda data: b""),
    "cut": _bytes(lambda data: data[:-40]),
    "followed by a line": _bytes(lambda data: data + b"\n"),
    "twice": _bytes(lambda data: data * 2),
    "with Windows line ends": _bytes(lambda data: data.replace(b"\n", b"\r\n")),
    "of another kind": _bytes(lambda data: data.replace(b"SSH SIGNATURE", b"PGP SIGNATURE")),
    "of 64 KiB and more": _bytes(lambda data: data + b"A" * (64 << 10)),
    "a pipe": _then(_pipe),
    "a folder": _then(_folder),
    "a link": _then(_link),
}
UNFIT = {
    "a changed letter": _bytes(_flip),
    "of the manifest before it was changed": _then(_other_manifest),
    "of another bundle": _replayed,
    "for the other kind of bundle": lambda x, w: _signed(
        x, "mpu-handoff-v1" if "update" in x.name else "mpu-update-v1"
    ),
    "for git": lambda x, w: _signed(x, "git"),
}


PINNING = ("unlearn", "diff", "aggregate")
"""They pin the key of whom they see first, and ask a person about it, or --trust-on-first-use."""


def cases() -> Iterator[Case]:
    """Of a handoff and of an update, without a list of allowed signers."""
    for thing in ("handoff", "update"):
        for said, damage in NOT_ONE.items():
            yield Case(f"{thing}: a signature, {said}", thing, damage)
        for said, damage in UNFIT.items():
            yield Case(f"{thing}: a signature, {said}", thing, damage, expect="1 Signature")
        yield Case(
            f"{thing}: signed by anybody",
            thing,
            _then(lambda x: None),
            expect="0",
            but=dict.fromkeys(set(COMMANDS[thing]) & set(PINNING), "1 Signature"),
            why="without a list of allowed signers a signature says who signed, and no more",
        )
