"""A reference is bound by what it computes: its weights and its configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mpu_cli.checkpoint.digest import loaded_digest, model_digest
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.client.reference_source import open_reference


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rms_norm_eps", 0.5),
        ("rope_theta", 7.0),
        ("attention_dropout", 0.25),
        ("hidden_act", "gelu"),
    ],
)
def test_an_edited_configuration_is_another_model(
    model_directory: Path, tmp_path: Path, key: str, value: object
) -> None:
    """A reference's digest depends on config.json; the model digest of lineages does not."""
    copied = Path(shutil.copytree(model_directory, tmp_path / "model"))
    before = open_reference(copied).digest
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(dict(reversed(config.items()))))
    assert open_reference(copied).digest == before == loaded_digest(open_checkpoint(copied))
    (copied / "config.json").write_text(json.dumps({**config, key: value}))
    assert open_reference(copied).digest != before
    assert model_digest(open_checkpoint(copied)) == model_digest(open_checkpoint(model_directory))
