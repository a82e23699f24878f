"""Where mpu keeps files of one user, by the XDG Base Directory Specification."""

from __future__ import annotations

import os
from pathlib import Path


def user_directory(variable: str, otherwise: str) -> Path:
    """Mpu's directory below the one that an environment variable names.

    Args:
        variable: XDG_CONFIG_HOME or XDG_STATE_HOME; one that is no absolute path counts as unset.
        otherwise: the directory without it, which may begin with ~.
    """
    given = Path(os.environ.get(variable, ""))
    root = given if given.is_absolute() else Path(otherwise).expanduser()
    return root / "mpu"
