"""The committed bundles of format 1: every later mpu must verify and aggregate them."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from mpu_cli.bundle.payload import check_update_tensors
from mpu_cli.bundle.read import read_handoff, read_update
from mpu_cli.bundle.tensors import open_copies
from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.server.aggregation.aggregate import aggregate
from mpu_cli.server.aggregation.settings import AggregateSettings
from mpu_cli.server.lineage.models import Lineage

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFESTS = {
    "handoff-v1/mpu.yaml": "e1d089b6954bfd4279ef46e70e4f8637707f73155ab7a682e844318ffc851eac",
    "update-v1/mpu.yaml": "d26afb217e7865478da780b783df5af76f9f6ff3969b63d511d178061a062585",
    "secret-v1/secret.yaml": "70a9f170ac797a9670077c9a406d765a67f0b519b9bd5edf56321488ad15567b",
}
DIGESTS = {
    "model-v1": "c86da3a0351f9890a6ac95e7ce2d77a7949e718034abc85112c5437d7c26e7d5",
    "base-v1": "d573344e311251873d880ff3201bcf58f1de9dbdc91ed4d71814a52684e5b6a7",
}
COMPUTED = {"sha256", "digest", "hmac", "of", "realised"}
"""Fields over noised bytes, which another processor may round otherwise."""
OF_ITS_DAY = {"date", "base_source", "structure", "grid"}
"""Fields that the mpu that made the committed records did not have."""
CORRECTED = {"exposure"}
"""Too high in the committed record, made before there was a prior; mpu computes it again."""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """tests/golden/make_golden.py as a module."""
    spec = importlib.util.spec_from_file_location("make_golden", GOLDEN / "make_golden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made(script, tmp_path_factory) -> Path:
    """The same bundles, made by today's code."""
    directory = tmp_path_factory.mktemp("golden")
    script.make(directory)
    return directory


def test_the_committed_bundles_verify():
    """Handoff, update and secret of format 1 pass every check."""
    handoff = read_handoff(GOLDEN / "handoff-v1")
    open_copies(GOLDEN / "handoff-v1", handoff)
    update = read_update(GOLDEN / "update-v1")
    check_update_tensors(GOLDEN / "update-v1", update)
    lineage = Lineage.read(GOLDEN / "secret-v1")
    assert update.handoff_digest == handoff.digest == lineage.handoffs[handoff.id].digest
    assert lineage.secret.origin == "test"


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_committed_manifests_have_fixed_bytes(name):
    """A change of these literals is a change of the format on disk."""
    assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == MANIFESTS[name]


@pytest.mark.parametrize("name", DIGESTS)
def test_the_golden_models_have_fixed_digests(name):
    """The definition of a model's digest is part of the format."""
    assert model_digest(open_checkpoint(GOLDEN / name)) == DIGESTS[name]


def test_the_golden_update_is_aggregated(script, tmp_path):
    """Aggregating update-v1 onto model-v1 adds the known change, up to rounding of the copies."""
    import shutil

    secret = shutil.copytree(GOLDEN / "secret-v1", tmp_path / "secret")
    settings = AggregateSettings(dtype="float32")
    result = aggregate(
        [GOLDEN / "update-v1"],
        secret,
        Located(GOLDEN / "model-v1", None),
        tmp_path / "out",
        settings,
    )
    before, after = (
        load_file(GOLDEN / "model-v1" / "model.safetensors"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    assert result.agreement[0] > 0.999
    for name, tensor in before.items():
        expected = script.change(name)
        if expected is None:
            assert torch.equal(after[name], tensor)
        else:
            assert torch.allclose(after[name] - tensor, expected, rtol=0, atol=2e-7)


def _without(value: object, fields: set[str]) -> object:
    if isinstance(value, dict):
        return {key: _without(item, fields) for key, item in value.items() if key not in fields}
    return [_without(item, fields) for item in value] if isinstance(value, list) else value


def test_todays_code_makes_the_same_files(made):
    """File names, manifests and records are the same, except digests of noise and exposure."""
    import yaml

    def names(root: Path) -> set[str]:
        return {
            str(file.relative_to(root))
            for folder in root.glob("*-v1")
            for file in folder.rglob("*")
            if file.is_file()
        }

    assert names(made) == names(GOLDEN)
    for name in names(GOLDEN):
        if name.endswith(".yaml"):
            old, new = (yaml.safe_load((root / name).read_text()) for root in (GOLDEN, made))
            assert _without(new, COMPUTED | CORRECTED | OF_ITS_DAY) == _without(
                old, COMPUTED | CORRECTED | OF_ITS_DAY
            ), name
        elif name.endswith("config.json") or name.startswith(("model-v1", "base-v1")):
            assert (made / name).read_bytes() == (GOLDEN / name).read_bytes(), name


def test_todays_code_draws_the_same_noise_and_transforms(made):
    """The streams, their addresses and T_k are part of the format.

    Tensors agree up to the last bits of a logarithm.
    """
    for folder in ("handoff-v1/copy-1", "handoff-v1/copy-2"):
        old, new = (load_file(root / folder / "model.safetensors") for root in (GOLDEN, made))
        assert all(torch.allclose(old[name], new[name], rtol=1e-6, atol=1e-8) for name in old)
    for folder in ("update-v1/copy-1", "update-v1/copy-2"):
        old, new = (load_file(root / folder / "delta.safetensors") for root in (GOLDEN, made))
        assert old.keys() == new.keys()
        assert all(torch.allclose(old[name], new[name], rtol=0, atol=2e-7) for name in old)
