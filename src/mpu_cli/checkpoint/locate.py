"""Find the model that MODEL or --base names: a directory or `[hf://]org/name[@revision]`."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from mpu_cli.checkpoint.model import INDEX_FILE, SINGLE_FILE, read_index
from mpu_cli.checkpoint.plain_file import TEMPLATES
from mpu_cli.checkpoint.side_files import ALLOWED
from mpu_cli.checkpoint.staging import full_words
from mpu_cli.errors import BadModelError, MpuError

_HUB_ID = re.compile(r"(?:hf://)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class Located:
    """A model on disk; `source` is the Hub id with its resolved commit, or None for a directory."""

    path: Path
    source: str | None


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of a Hub id, `org/name[@revision]` with or without `hf://`."""
    return _HUB_ID.fullmatch(text) is not None and not text.startswith((".", "/"))


def locate(model: str) -> Located:
    """Find a model: first as a path, then in the Hub cache, then on the Hub.

    The Hub is skipped if HF_HUB_OFFLINE is set.

    Raises:
        BadModelError: neither a directory nor a Hub id, or the Hub (or its cache) does not have it.
    """
    path = Path(model)
    if path.exists():
        return Located(path, None)
    match = _HUB_ID.fullmatch(model)
    if match is None or not is_hub_id(model):
        raise BadModelError(
            f"{model}: no such model directory",
            "give a directory, or a Hub id as org/name[@revision]",
        )
    return _from_hub(model, match["repo"], match["revision"])


def _from_hub(model: str, repo: str, revision: str | None) -> Located:
    with _hub_errors(model, repo, revision):
        from huggingface_hub import snapshot_download  # takes 0.2 s: imported for Hub ids only

        # Use the same patterns online and offline: with others, the offline lookup finds the
        # snapshot incomplete.
        small = [*ALLOWED, f"{TEMPLATES}/*.jinja", INDEX_FILE]
        snapshot = Path(snapshot_download(repo, revision=revision, allow_patterns=small))
        shards = (
            set(read_index(snapshot / INDEX_FILE).values())
            if (snapshot / INDEX_FILE).exists()
            else set()
        )
        patterns = [*small, SINGLE_FILE, *sorted(map(escape, shards))]
        # Download by commit: the branch may have moved since the first call.
        snapshot_download(repo, revision=snapshot.name, allow_patterns=patterns)
    return Located(snapshot, f"{repo}@{snapshot.name}")


@contextmanager
def _hub_errors(model: str, repo: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the Hub and its cache into a BadModelError with a hint."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise BadModelError(
            f"{model}: is gated on the Hub, and this account has no access",
            f"request access at https://huggingface.co/{repo}, then run: hf auth login",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BadModelError(
            f"{model}: the Hub has no revision {revision} of {repo}",
            "give a branch, a tag or a commit",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BadModelError(
            f"{model}: no such directory, and the Hub has no such model, or it is private",
            "check the name; for a private model run: hf auth login",
        ) from error
    except errors.HFValidationError as error:
        raise BadModelError(
            f"{model}: no such directory, and not a valid Hub id",
            "write org/name[@revision]",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
        why = "HF_HUB_OFFLINE is set" if offline else "the Hub cannot be reached"
        raise BadModelError(
            f"{model}: no such directory, and the Hub cache does not hold the whole model; {why}",
            f"download it on a machine with a network: hf download {repo}"
            + (f" --revision {revision}" if revision else ""),
        ) from error
    except errors.HfHubHTTPError as error:
        raise BadModelError(
            f"{model}: the Hub answered with status"
            f" {getattr(error.response, 'status_code', 'unknown')}",
            "try again later, or check HF_ENDPOINT and hf auth whoami",
        ) from error
    except MpuError:
        raise
    except Exception as error:  # the HTTP library raises its own errors, for instance for a proxy
        if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:
            raise BadModelError(
                f"{model}: cannot be downloaded: where the Hub's cache lies,"
                f" {full_words(getattr(error, 'errno', None))}",
                "free some space, or set HF_HOME to a larger disk",
            ) from error
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise BadModelError(
            f"{model}: cannot be downloaded ({reason})",
            "check the network, the proxy and the cache's permissions, or download it first: hf"
            f" download {repo}",
        ) from error
