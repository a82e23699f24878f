"""Explain a file or folder that the manifest does not list."""

from __future__ import annotations

from collections.abc import Collection

from mpu_cli.checkpoint.recognise import unfinished_name


def explain_stray(name: str, listed: Collection[str], present: Collection[str]) -> tuple[str, str]:
    """Return what an unlisted name in a folder of a bundle most likely is, and what to do.

    Args:
        name: the name of the file or folder.
        listed: the names that the manifest lists in this folder.
        present: the names that the folder holds.
    """
    twin = next(
        (
            other
            for other in sorted(listed)
            if other.lower() == name.lower() and other not in present
        ),
        None,
    )
    if twin is not None:
        return (
            f"differs from the listed {twin} only in the case of letters",
            f"rename it to {twin}",
        )
    whole = unfinished_name(name)
    if whole in listed:
        if whole in present:
            return f"is a partial transfer or a backup of {whole}", f"remove {name}, keep {whole}"
        return f"is a partial transfer of {whole}", f"copy {whole} again, then remove {name}"
    return "is not listed in mpu.yaml", "remove it"
