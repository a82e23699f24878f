"""What a process can leave out if it ends after one command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_ends_after_one_command = False


def ends_after_one_command() -> None:
    """Note that this process runs one command; the program's entry point calls this."""
    global _ends_after_one_command
    _ends_after_one_command = True


@contextmanager
def without_torch() -> Iterator[None]:
    """Hide torch from transformers, for a command that reads only tokenizers and configurations.

    With torch, transformers imports all that models need, which takes 4 of 5 CPU seconds. It looks
    for torch once, so this does nothing in a process that may load a model later, or if torch or
    transformers is imported already.
    """
    if not _ends_after_one_command or {"torch", "transformers"} & sys.modules.keys():
        yield
        return
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # it would advise to install torch
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        # scipy, for example, would use the None as a module.
        del sys.modules["torch"]
