"""The hidden work directory has a predictable name, so what others put there is left alone."""

from __future__ import annotations

import pytest

from mpu_cli.client.settings import CheckpointSettings
from mpu_cli.client.work_directory import WorkDirectory
from mpu_cli.errors import OutputError


@pytest.mark.parametrize("place", [".out.mpu-work", ".out.mpu-work/copy-1"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_planted_link_erases_nothing_and_is_not_read(tmp_path, place, resume):
    """Neither --force nor --resume follows a link in the place of the work directory."""
    victim = tmp_path / "victim"
    for folder in (victim, victim / "copy-1"):
        folder.mkdir()
        (folder / "complete.json").write_text("mine")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).symlink_to(victim)
    with pytest.raises(OutputError, match=r"is a link or a file that mpu did not create"):
        WorkDirectory(tmp_path / "out", CheckpointSettings(resume=resume)).begin(
            ["copy-1"], force=True
        )
    assert (victim / "complete.json").exists()
    assert (victim / "copy-1" / "complete.json").exists()
