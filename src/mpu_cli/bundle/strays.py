"""What a file or folder that the manifest does not list most likely is, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection

from mpu_cli.checkpoint.recognise import unfinished_name


def explain_stray(name: str, listed: Collection[str], found: Collection[str]) -> tuple[str, str]:
    """What to say of an unlisted name in one folder of a bundle, and the remedy.

    Args:
        name: of the file or folder.
        listed: what the manifest lists in this folder.
        found: what lies in it.
    """
    twin = next(
        (other for other in sorted(listed) if other.lower() == name.lower() and other not in found),
        None,
    )
    if twin is not None:
        return (
            f"is {twin} under another spelling: a copy or an archive changed upper and lower case",
            f"rename it to {twin}",
        )
    whole = unfinished_name(name)
    if whole in listed:
        if whole in found:
            return (
                f"is what an interrupted transfer of {whole} left, or a backup of it",
                f"{whole} itself is there: remove {name}",
            )
        return (
            f"is what an interrupted transfer of {whole} left",
            f"transfer {whole} again, then remove {name}",
        )
    return "is not listed in mpu.yaml", "remove it"
