"""A handoff that changes while `mpu unlearn` works on it gives no update."""

from __future__ import annotations

import os

from rounds import QUICK

from mpu_cli.client import unlearn as module


def test_a_handoff_altered_during_training_gives_no_update(
    mpu, own_round, tmp_path, monkeypatch, leftovers
):
    """The second copy's tokenizer changes after it was loaded; its time is set back."""
    file = own_round.handoff / "copy-2/tokenizer_config.json"
    original = module.train_copy

    def train_copy(run, copy, context):
        report = original(run, copy, context)
        if copy.source.name == "copy-2":
            before = file.stat()
            file.write_bytes(file.read_bytes().replace(b"{", b" ", 1)[:-1] + b"x")
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        return report

    monkeypatch.setattr(module, "train_copy", train_copy)
    data = ("--forget", own_round.forget, "--retain", own_round.retain, *QUICK)
    done = mpu("unlearn", own_round.handoff, *data, "--out", tmp_path / "out")
    assert done.code == 3
    assert f"{file}: was altered while this command read it" in done.err
    assert "hint: run again" in done.err
    assert not (tmp_path / "out").exists()
