"""A record names its model, handoff, date and versions; the server's records have dates."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mpu_cli.bundle.manifest import decode

GOLDEN = Path(__file__).parents[1] / "golden"
QUICK = ("--device", "cpu", "--resamples", "1000", "--no-generate")


@pytest.fixture
def evaluated(mpu, tmp_path):
    """Evaluate a directory on some rows and return the summary."""

    def run(directory: Path, forget: Path, *more: object) -> dict:
        done = mpu(
            "eval",
            directory,
            "--forget",
            forget,
            *QUICK,
            "--record",
            tmp_path / "record",
            "--force",
            *more,
            "--json",
        )
        assert done.code == 0, done.err
        assert done.json == json.loads((tmp_path / "record" / "summary.json").read_text())
        return done.json | {"stderr": done.err}

    return run


def recent(date: str) -> bool:
    """Whether a date is in the last minutes, in UTC."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", date)
    passed = datetime.now(UTC) - datetime.strptime(date, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return timedelta(seconds=-1) <= passed < timedelta(minutes=30)


def test_a_model_has_one_digest_everywhere(finished_round, mpu, evaluated):
    """In inspect, in its lineage, and in a record."""
    told = mpu("inspect", finished_round.model, "--json").json["digest"]
    root = mpu("inspect", finished_round.secret, "--json").json["models"][0]
    assert (
        root["digest"]
        == told
        == evaluated(finished_round.model, finished_round.forget)["model"]["digest"]
    )
    assert told in mpu("inspect", finished_round.model).out
    assert "digest" not in mpu("inspect", finished_round.model, "--no-digest", "--json").json


def test_a_record_names_the_published_copy(finished_round, mpu, evaluated, tmp_path):
    """Handoff, copy, date, versions, template variables and settings; inspect prints them."""
    copy = finished_round.handoff / "copy-2"
    found = evaluated(copy, finished_round.forget, "--reference", finished_round.base)
    manifest = decode((finished_round.handoff / "mpu.yaml").read_bytes(), "mpu.yaml")
    assert found["model"]["handoff"] == {
        "id": manifest.id,
        "digest": manifest.digest,
        "copy": "copy-2",
    }
    assert recent(found["made"]["date"])
    assert {"mpu", "python", "torch", "transformers"} <= set(found["made"]["versions"])
    assert (
        found["made"]["reference"]["digest"]
        == mpu("inspect", finished_round.base, "--json").json["digest"]
    )
    assert found["settings"]["prompting"] == {
        "system_prompt": None,
        "variables": {},
        "date": "2024-07-26",
        "content_parts": False,
    }
    assert (found["settings"]["batch_size"], found["settings"]["generate"]) == (32, False)
    text = mpu("inspect", tmp_path / "record").out
    made = found["made"]
    for word in (
        manifest.id,
        "copy-2",
        found["model"]["digest"],
        made["date"],
        made["versions"]["torch"],
        "2024-07-26",
    ):
        assert word in text, word
    assert mpu("inspect", tmp_path / "record", "--json").json == {
        key: found[key] for key in found if key != "stderr"
    }


def test_a_record_of_an_update_names_all_three(finished_round, mpu, evaluated):
    """The handoff, the copy and the update; the digest is that of the changed weights."""
    found = evaluated(
        finished_round.update,
        finished_round.forget,
        "--handoff",
        finished_round.handoff,
        "--copy",
        2,
    )
    handoff, update = (
        mpu("inspect", path, "--json").json
        for path in (finished_round.handoff, finished_round.update)
    )
    assert found["model"]["handoff"] == {
        "id": handoff["id"],
        "digest": handoff["digest"],
        "copy": "copy-2",
        "update": update["digest"],
    }
    assert (
        found["model"]["digest"]
        != mpu("inspect", finished_round.handoff / "copy-2", "--json").json["digest"]
    )


@pytest.mark.parametrize("change", ["weights", "config", "missing", "manifest"])
def test_an_altered_copy_is_not_named_as_published(own_round, evaluated, change):
    """A changed byte, a missing file or a broken manifest: no handoff, and a warning."""
    copy = own_round.handoff / "copy-1"
    if change == "weights":
        path = copy / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    elif change == "config":
        (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    elif change == "missing":
        (copy / "generation_config.json").unlink()
    else:
        (own_round.handoff / "mpu.yaml").write_text("kind: handoff\n")
    found = evaluated(copy, own_round.forget)
    assert found["model"]["handoff"] is None
    assert "names no handoff, since the model is no published copy" in found["stderr"]


def test_compared_records_are_named(finished_round, evaluated, mpu, tmp_path):
    """--retain-record and --before by the digest of their models, if they have one."""
    evaluated(finished_round.base, finished_round.forget)
    old = tmp_path / "old"
    (tmp_path / "record").rename(old)
    base = mpu("inspect", finished_round.base, "--json").json["digest"]
    found = evaluated(finished_round.model, finished_round.forget, "--before", old)
    assert found["made"]["before"] == {"name": "base", "digest": base}
    assert "retain_record" not in found["made"]
    summary = json.loads((old / "summary.json").read_text())
    del summary["made"], summary["model"]["digest"], summary["model"]["handoff"]
    (old / "summary.json").write_text(json.dumps(summary))
    assert evaluated(finished_round.model, finished_round.forget, "--before", old)["made"][
        "before"
    ] == {"name": "base", "digest": None}
    assert mpu("inspect", old).code == 0


def test_the_servers_records_have_dates(finished_round, mpu):
    """Every handoff and model, in JSON and text; records of an earlier mpu have none."""
    told = mpu("inspect", finished_round.secret, "--json").json
    assert all(recent(one["date"]) for one in [*told["models"], *told["handoffs"]])
    assert f"{told['handoffs'][0]['date'][:10]} " in mpu("inspect", finished_round.secret).out
    old = mpu("inspect", GOLDEN / "secret-v1", "--json").json
    assert {one["date"] for one in [*old["models"], *old["handoffs"]]} == {None}
    assert "UTC" not in mpu("inspect", GOLDEN / "secret-v1").out
