"""Recover the operating system's errors from those that safetensors and torch raise instead."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise the OSError that made a library fail to write a file.

    safetensors puts "(os error 28)" into its message. torch.save ignores a failed write until its
    own bookkeeping fails, and raises RuntimeError with the OSError in its context.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        cause = _system_error(error)
        if cause is None:
            raise
        raise cause from error


def _system_error(error: BaseException) -> OSError | None:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError):
            return OSError(link.errno, link.strerror, link.filename)
        if match := re.search(r"\(os error (\d+)\)", str(link)):
            return OSError(int(match[1]), os.strerror(int(match[1])))
        link = link.__cause__ or link.__context__
    return None
