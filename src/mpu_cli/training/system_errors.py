"""The operating system's errors, whatever a library made of them.

Safetensors and torch raise others than OSError.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise OSError where a library that failed to write a file raised something else because of one.

    safetensors puts "(os error 28)" into its message; torch.save, whose file could not be written,
    goes on until its own bookkeeping does not add up, and raises RuntimeError with the OSError in
    its context.
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
        if found := re.search(r"\(os error (\d+)\)", str(link)):
            return OSError(int(found[1]), os.strerror(int(found[1])))
        link = link.__cause__ or link.__context__
    return None
