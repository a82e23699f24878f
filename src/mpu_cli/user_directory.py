"""Where mpu keeps files of one user, by the XDG Base Directory Specification."""

from __future__ import annotations

import os
from pathlib import Path


def user_directory(variable: str, otherwise: str) -> Path:
    """Mpu's directory below the one that an environment variable names.

    Args:
        variable: XDG_CONFIG_HOME or XDG_STATE_HOME; one that is no absolute path counts as unset.
        otherwise: the directory without it, which may begin with ~.

    Returns:
        A path below /dev/null, where nothing is, if this user has no home directory.
    """
    given = Path(os.environ.get(variable, ""))
    if given.is_absolute():
        return given / "mpu"
    try:
        return Path(otherwise).expanduser() / "mpu"
    except RuntimeError:  # neither $HOME nor an entry in the list of users
        return Path(os.devnull) / "mpu"
