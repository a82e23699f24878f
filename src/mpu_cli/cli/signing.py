"""The options of signatures: the key that signs, and whose signatures are accepted."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.cli.output import Output
from mpu_cli.errors import UsageError
from mpu_cli.option import flags_of, option
from mpu_cli.user_directory import user_directory

if TYPE_CHECKING:
    from mpu_cli.bundle.signatures.pins import FirstUse
    from mpu_cli.bundle.signatures.private_key import SigningKey
    from mpu_cli.bundle.signatures.trust import BundleSigner, Trust

TRUST_FILE = "MPU_TRUST_FILE"
"""The environment variable that --trust-file is read from if it is not given."""
OWNER = "model-owner"
"""The name of the model's owner in the client's trust file without --signer."""


@dataclass(frozen=True, slots=True)
class Signing:
    """Options that several commands take by `same_option`."""

    sign: Path | None = option(
        None,
        "Sign with this SSH key: a private key, or the .pub file of a key in the agent.",
        panel="Output",
        metavar="KEY",
    )
    allowed_signers: Path | None = option(
        None,
        "Accept only what a key in this file has signed (OpenSSH's format of allowed signers).",
        panel="Model",
        metavar="FILE",
    )
    trust_on_first_use: bool = option(
        False, "Pin the key of a signer who has none pinned yet, without asking.", panel="Model"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoffSigners:
    """Who must have signed a handoff, for the commands of a client."""

    allowed_signers: Path | None = option(
        None,
        "Accept the handoff only if a key in this file has signed it (OpenSSH's format of allowed"
        " signers).",
        panel="Model",
        metavar="FILE",
    )
    signer: str | None = option(
        None,
        "Name of the model's owner, who signs the handoffs.",
        shown=f"{OWNER}; anybody in the file with --allowed-signers",
        metavar="NAME",
    )
    trust_file: Path | None = option(
        None,
        "File in which the owner's key is pinned when it is first seen; a handoff that is not"
        " signed with a pinned key is refused.",
        shown="mpu/allowed_signers in the user's configuration",
        environment=TRUST_FILE,
        metavar="FILE",
    )
    trust_on_first_use: bool = option(
        False, "Pin the key of an owner who has none pinned yet, without asking."
    )

    def __post_init__(self) -> None:
        """Check the name."""
        if self.signer is not None:
            from mpu_cli.bundle.signatures.allowed_signers import require_name

            require_name(self.signer, "--signer")
        if self.allowed_signers is not None and self.trust_on_first_use:
            raise UsageError(
                "--allowed-signers and --trust-on-first-use: give one of them",
                "with a file of allowed signers nothing is pinned",
            )

    def refuse_given(self, given: Mapping[str, Any], why: str) -> None:
        """Refuse options that have no effect.

        Raises:
            UsageError: the first one of these options that the user gave.
        """
        for flag in flags_of(HandoffSigners).values():
            if flag in given:
                raise UsageError(f"{flag} is for a handoff", why)

    def check(self, handoff: Path, place: Path, output: Output) -> CheckedHandoff:
        """Check who signed the handoff, before anything else of it is read.

        Args:
            handoff: the handoff as the user named it.
            place: its directory.
            output: of the command.

        Raises:
            SignatureError: the signature does not fit, or is not by whom it must be.
            BadInputError: a file of allowed signers is malformed.
        """
        from mpu_cli.bundle.read import open_manifest
        from mpu_cli.bundle.signatures.allowed_signers import AllowedSigners
        from mpu_cli.bundle.signatures.pins import PinnedSigners
        from mpu_cli.bundle.signatures.trust import ANYBODY, NAMESPACES, Trust
        from mpu_cli.checkpoint.recognise import HANDOFF

        if self.allowed_signers is not None:
            trust = Trust(AllowedSigners.read(self.allowed_signers), self.signer)
            signer = open_manifest(place, HANDOFF, trust).signer
        else:
            owner = self.signer or OWNER
            pins = PinnedSigners(self.trust_file or default_trust_file(), NAMESPACES["handoff"])
            pinned = pins.read().about(owner, NAMESPACES["handoff"])
            trust = Trust(pinned, owner) if pinned.lines else ANYBODY
            found = open_manifest(place, HANDOFF, trust).signer
            decide = first_use(output, accept=self.trust_on_first_use)
            signer = pins.accept(handoff, owner, found, decide)
            trust = ANYBODY if signer is None else Trust(pins.read(), owner)
        return CheckedHandoff(trust, signer)


@dataclass(frozen=True, slots=True)
class CheckedHandoff:
    """Who signed a handoff, and what to ask when its files are checked."""

    trust: Trust
    signer: BundleSigner | None

    @property
    def words(self) -> str:
        """One sentence."""
        return f"The handoff is {who_signed(self.signer)}."


def default_trust_file() -> Path:
    """`mpu/allowed_signers` below $XDG_CONFIG_HOME, or below ~/.config."""
    return user_directory("XDG_CONFIG_HOME", "~/.config") / "allowed_signers"


def signing_key(path: Path | None) -> SigningKey | None:
    """The key of --sign, opened and tried before any work; None without it."""
    if path is None:
        return None
    from mpu_cli.bundle.signatures.private_key import open_signing_key

    return open_signing_key(path)


def who_signed(signer: BundleSigner | None) -> str:
    """One clause about a signature that was verified."""
    if signer is None:
        return "not signed"
    if signer.principal is None:
        return f"signed with {signer.words}, which was not compared with anybody's key"
    return f"signed by {signer.words}"


def signature_content(signer: BundleSigner | None) -> dict[str, str | None] | None:
    """What --json says about it."""
    return None if signer is None else signer.content()


def first_use(
    output: Output,
    *,
    accept: bool,
    approved: Collection[tuple[str, bytes]] = (),
    may_ask: bool = True,
) -> FirstUse:
    """Decide about a first key: by --trust-on-first-use, by earlier answers, or by asking.

    Args:
        output: of the command.
        accept: accept without asking.
        approved: names and keys that the user has approved.
        may_ask: ask at the terminal.
    """

    def decide(where: str, principal: str, signer: BundleSigner) -> bool:
        agreed = (
            accept
            or (principal, signer.key.blob) in approved
            or (may_ask and can_ask() and ask_about(where, principal, signer))
        )
        if agreed:
            output.note(f"{signer.words} is pinned as the key of {principal}")
        return agreed

    return decide


def can_ask() -> bool:
    """Whether somebody sits at a terminal, and this process is alone."""
    from mpu_cli.modeling.processes import this_process

    streams = (sys.stdin, sys.stderr)
    return all(stream is not None and stream.isatty() for stream in streams) and (
        this_process().size == 1
    )


def ask_about(where: str, principal: str, signer: BundleSigner) -> bool:
    """Ask whether a key is somebody's; only `y` and `yes` mean that it is."""
    print(
        f"mpu: {where}: signed with {signer.words}\n"
        f"mpu: no key of {principal} is known yet. Compare this fingerprint with the one that"
        f" {principal} tells you by telephone, for instance.\n"
        f"mpu: Is it the key of {principal}, and shall it be pinned? [y/N] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
