"""MODEL and --base as users write them: a directory, `org/name[@revision]` or `hf://org/name[@revision]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.checkpoint.side_files import ALLOWED, WEIGHTS
from mpu_cli.errors import BadModelError

_HUB_ID = re.compile(r"(?:hf://)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class Located:
    """A model found on disk; `source` is a Hub id with its resolved commit, or None for a plain directory."""

    path: Path
    source: str | None


def locate(model: str) -> Located:
    """Find a model: an existing path wins; otherwise the Hub's cache, then the Hub (unless HF_HUB_OFFLINE is set).

    Raises:
        BadModelError: neither a directory nor a Hub id, or the Hub (or its cache) does not have it.
    """
    path = Path(model)
    if path.exists():
        return Located(path, None)
    match = _HUB_ID.fullmatch(model)
    if match is None or model.startswith((".", "/")):
        raise BadModelError(f"{model}: no such model directory", "give a directory, or a Hub id as org/name[@revision]")
    repo, revision = match["repo"], match["revision"]
    return _from_hub(model, repo, revision)


def _from_hub(model: str, repo: str, revision: str | None) -> Located:
    from huggingface_hub import snapshot_download  # 0.2 s: only where a Hub id is really asked for
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        # The same patterns online and offline, else the offline look-up calls the snapshot incomplete.
        snapshot = Path(snapshot_download(repo, revision=revision, allow_patterns=[*ALLOWED, *WEIGHTS]))
    except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadModelError(
            f"{model}: no such directory, and the Hub does not give it ({reason})",
            "check the name; offline, download it first with: hf download " + repo,
        ) from error
    return Located(snapshot, f"{repo}@{snapshot.name}")
