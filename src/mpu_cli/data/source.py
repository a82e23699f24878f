"""Find a data file: a path, or `hf://datasets/org/name[@revision]/path/file.jsonl`."""

from __future__ import annotations

import re
from pathlib import Path

from mpu_cli.data.formats import SUFFIXES
from mpu_cli.errors import BadDataError

_FORM = "hf://datasets/org/name[@revision]/path/file.jsonl"
# A revision holds slashes only where the Hub's own names do: refs/pr/7, refs/convert/parquet.
_HUB_FILE = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[^/@]+))?/(?P<path>[^@]+)"
)


def find_data(location: str | Path) -> Path:
    """Find a data file: an existing path, else in the Hub's cache, else on the Hub.

    The Hub is not asked if HF_HUB_OFFLINE is set.

    Raises:
        BadDataError: the location is malformed, or the file is not on the Hub or in its cache.
    """
    text = str(location)
    path = Path(location)
    if not text.startswith("hf:") or path.exists():
        return path
    match = _HUB_FILE.fullmatch(text)
    if match is None or any(part in {"", ".", ".."} for part in match["path"].split("/")):
        raise BadDataError(
            f"{text}: not a data file on the Hub", f"write {_FORM}; data files are {SUFFIXES}"
        )
    return _from_hub(
        text, match["repo"], (match["revision"] or "").replace("%2F", "/") or None, match["path"]
    )


def _from_hub(location: str, repo: str, revision: str | None, path: str) -> Path:
    from huggingface_hub import hf_hub_download  # takes 0.2 s
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(str(hf_hub_download(repo, path, repo_type="dataset", revision=revision)))
    except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        command = f"hf download --repo-type dataset {repo} {path}" + (
            f" --revision {revision}" if revision else ""
        )
        raise BadDataError(
            f"{location}: it cannot be fetched from the Hub ({reason})",
            f"check the name; to work offline, download it first: {command}",
        ) from error
