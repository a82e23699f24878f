"""LoRA on the command line: flags, inspect and verify of an update, and leaks."""

import getpass
import json
import shutil
from pathlib import Path

import pytest
from rounds import QUICK

LORA = ("--lora-rank", 4)


@pytest.fixture
def adapted(mpu, own_round, tmp_path):
    """An update of adapters for a round's handoff."""
    data = ("--forget", own_round.forget, "--retain", own_round.retain, *QUICK)
    done = mpu("unlearn", own_round.handoff, *data, *LORA, "--out", tmp_path / "u")
    assert done.code == 0 and "adapter" not in done.err, done.err
    return tmp_path / "u"


def test_a_round_with_adapters(mpu, own_round, adapted, tmp_path):
    """Inspect and verify know the payload, and aggregate makes a model of it."""
    assert mpu("verify", adapted).code == 0
    told = mpu("inspect", adapted, "--json").json["copies"][0]
    assert told == {**told, "payload": "lora", "rank": 4, "tensors": 10, "dtype": "F32"}
    assert "lora, rank 4" in mpu("inspect", adapted).out
    assert mpu("inspect", own_round.update, "--json").json["copies"][0]["payload"] == "delta"
    done = mpu(
        "aggregate",
        adapted,
        "--secret",
        own_round.secret,
        "--model",
        own_round.model,
        "--out",
        tmp_path / "next",
        "--json",
    )
    assert done.code == 0 and done.json["relative_norm"] > 0
    assert mpu("verify", tmp_path / "next").code == 0


def test_an_adapter_reveals_nothing_of_the_client(adapted, own_round):
    """No path, user, host, row or setting in any byte."""
    needles = {
        str(own_round.forget),
        "forget.jsonl",
        "GradDiff",
        "seed",
        "peft_version",
        "w3 w4",
        str(Path.home()),
        "/tmp/",
    }
    needles |= {getpass.getuser()} if len(getpass.getuser()) > 4 else set()
    for file in adapted.rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        assert not [needle for needle in needles if needle.encode() in data], file
    assert {oct(file.stat().st_mode & 0o777) for file in adapted.rglob("*") if file.is_file()} == {
        "0o644"
    }


def test_merging_by_diff_makes_a_delta(mpu, adapted, own_round, tmp_path):
    """Diff reads an update of adapters; --merge writes the full change."""
    shutil.copytree(adapted, tmp_path / "t", ignore=shutil.ignore_patterns("mpu.yaml"))
    assert (
        mpu("diff", own_round.handoff, tmp_path / "t", "--out", tmp_path / "same", "--json").json[
            "digest"
        ]
        == (mpu("inspect", adapted, "--json").json["digest"])
    )
    assert (
        mpu("diff", own_round.handoff, tmp_path / "t", "--merge", "--out", tmp_path / "merged").code
        == 0
    )
    assert mpu("inspect", tmp_path / "merged", "--json").json["copies"][0]["payload"] == "delta"


def test_inexact_targets_give_a_warning_and_wrong_flags_are_refused(mpu, own_round, tmp_path):
    """An adapter of o gives a warning for a handoff only; alpha without rank is a usage error."""
    data = (
        "--forget",
        own_round.forget,
        "--retain",
        own_round.retain,
        *QUICK,
        "--out",
        tmp_path / "u",
    )
    for source, warned in ((own_round.model, False), (own_round.handoff, True)):
        done = mpu("unlearn", source, *data, *LORA, "--lora-targets", "q,o")
        assert done.code == 0 and ("o_proj" in done.err) == warned
        shutil.rmtree(tmp_path / "u")
    unfit = (("--lora-targets", "c_attn"), ("--lora-alpha", -1))
    for flags in (
        ("--lora-alpha", 8),
        ("--lora-targets", "q"),
        ("--lora-rank", 0),
        *((*LORA, *flags) for flags in unfit),
    ):
        done = mpu("unlearn", own_round.handoff, *data, *flags)
        assert done.code == 2 and "--lora-" in done.err and not (tmp_path / "u").exists(), flags


def test_a_hostile_adapter_is_one_line_and_exit_three(mpu, adapted):
    """A configuration with other keys, under a manifest that lists it."""
    file = adapted / "copy-1/adapter_config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "use_dora": True}, sort_keys=True, indent=2)
        + "\n"
    )
    done = mpu("verify", adapted)
    assert done.code == 3 and "adapter_config.json" in done.err
    assert mpu("inspect", adapted).code == 3
