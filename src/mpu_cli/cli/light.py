"""What a process that runs one command and ends may leave out, because nobody will ask it for anything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_ends_after_one_command = False


def ends_after_one_command() -> None:
    """Say so; only the program's entry point knows."""
    global _ends_after_one_command
    _ends_after_one_command = True


@contextmanager
def without_torch() -> Iterator[None]:
    """Let transformers believe that torch is not installed, as it may be for those who only read tokenizers and configurations.

    With torch it imports its whole machinery for models, too: 4 of 5 CPU-seconds. It keeps this
    belief as long as the process lives, so this does nothing where the process may go on to load a
    model, or where torch or transformers is there already.
    """
    if not _ends_after_one_command or {"torch", "transformers"} & sys.modules.keys():
        yield
        return
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # it would advise to install torch
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        # scipy, for one, takes whatever lies here for a module.
        del sys.modules["torch"]
