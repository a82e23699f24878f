"""A lost handoff is written again, bit for bit."""

import os
import shutil

import pytest
from two_parties import (
    fingerprint,
    leftovers,
)

from mpu_cli.checkpoint.locate import Located
from mpu_cli.errors import (
    BadSecretError,
    CheckFailedError,
)
from mpu_cli.server.publishing.reissue import reissue


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"offset": 0.1, "kappa": 0.3},
        {"denoising": "extrapolation"},
        {"copies": 1, "reparam": "rotation"},
        {"alphas": (1.23, 2.34, 3.45), "scope": "all"},
        {"max_shard_bytes": 20_000},
        {"dtype": "bfloat16"},
        {"train_embeddings": True},
    ],
    ids=lambda value: ",".join(value) or "default",
)
def test_a_lost_handoff_is_issued_again_bit_for_bit(server, settings):
    """Every file of a handoff is written again from its record; the lineage does not change."""
    folder, record = server.perturb(**settings)
    server.aggregate(server.update((folder, record)), out="next")
    before = fingerprint(server.secret)
    again = server.root / "again"
    assert (
        reissue(Located(server.pair.model, None), again, server.secret, record.id).id == record.id
    )
    assert fingerprint(again) == fingerprint(folder) and fingerprint(server.secret) == before
    assert leftovers(server.root) == []


def test_split_handoffs_are_issued_again_one_by_one(server):
    """Each holder's handoff is remade without the copies of the others."""
    folder, records = server.perturb(split=True)
    for place, record in enumerate(records, 1):
        again = server.root / f"again-{place}"
        reissue(Located(server.pair.model, None), again, server.secret, record.id)
        assert fingerprint(again) == fingerprint(folder / f"holder-{place}")


def test_a_reissued_handoff_is_readable_by_everybody(server):
    """Public files and directories get normal modes under any umask, made anew or not."""
    before = os.umask(0o077)
    try:
        folder, record = server.perturb()
        reissue(Located(server.pair.model, None), server.root / "again", server.secret, record.id)
    finally:
        os.umask(before)
    for directory in (folder, server.root / "again"):
        for path in (directory, *directory.rglob("*")):
            assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_what_cannot_be_issued_again_is_refused(server):
    """Another model, or an unknown handoff, is refused, and nothing is written."""
    folder, record = server.perturb()
    server.aggregate(server.update((folder, record)), out="next")
    with pytest.raises(CheckFailedError, match="is not the model that handoff"):
        reissue(
            Located(server.root / "next", None), server.root / "again", server.secret, record.id
        )
    with pytest.raises(BadSecretError, match="no handoff"):
        reissue(Located(server.pair.model, None), server.root / "again", server.secret, "f" * 32)
    other = server.root / "other config"
    shutil.copytree(server.pair.model, other)
    (other / "generation_config.json").write_text('{"max_length": 7}')
    with pytest.raises(CheckFailedError, match="cannot be reproduced"):
        reissue(Located(other, None), server.root / "again", server.secret, record.id)
    assert not (server.root / "again").exists() and leftovers(server.root) == []
