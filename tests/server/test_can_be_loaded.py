"""A model that `unlearn` and `eval` would refuse is refused before anything is published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from two_parties import layout_of

from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError
from mpu_cli.modeling.load import load_model
from mpu_cli.server.can_be_loaded import check_loads
from mpu_cli.server.publishing.function_check import check_layer

CASES = [
    ("qwen2", "config.json", {"layer_types": ["sliding_attention"] * 2, "sliding_window": None}),
    ("qwen2", "generation_config.json", {"early_stopping": "maybe"}),
    ("qwen2", "generation_config.json", {"max_new_tokens": -1}),
    ("qwen2", "generation_config.json", {"num_return_sequences": 5}),
]


def _changed(pair, tmp_path: Path, name: str, changes: dict) -> Path:
    model = Path(shutil.copytree(pair.model, tmp_path / "model"))
    content = json.loads((model / name).read_text())
    if "layer_types" in changes:
        changes = {
            **changes,
            "layer_types": changes["layer_types"][:1] * content["num_hidden_layers"],
            "use_sliding_window": False,
        }
    (model / name).write_text(json.dumps({**content, **changes}))
    return model


@pytest.mark.parametrize(("family", "name", "changes"), CASES)
def test_perturb_refuses_what_load_model_refuses(tiny_pair, tmp_path, family, name, changes):
    """The same kind of error, naming the same file, without the weights' numbers.

    The model as it was is let through.
    """
    pair = tiny_pair(family)
    check_loads(open_checkpoint(pair.model))
    model = _changed(pair, tmp_path, name, changes)
    with pytest.raises(BadModelError) as by_client:
        load_model(model)
    with pytest.raises(BadModelError) as by_server:
        check_loads(open_checkpoint(model))
    assert (
        str(by_server.value).split(":")[0]
        == str(by_client.value).split(":")[0]
        == str(model / name)
    )


def test_a_layer_that_cannot_be_run_is_bad_input(tiny_pair, tmp_path):
    """The check of the function says so in our words, whatever was looked at before it."""
    _, name, changes = CASES[0]
    model = _changed(tiny_pair("qwen2"), tmp_path, name, changes)
    layout = layout_of(model)
    with pytest.raises(BadModelError, match=r"config\.json: transformers cannot build this model"):
        check_layer(open_checkpoint(model), layout, layout.layers[0], [])
