"""Crashes and interrupts between the renames and the records."""

import os
import signal
import time

import pytest
from two_parties import (
    digest,
    fingerprint,
    leftovers,
    publish,
)

from mpu_cli.bundle.read import read_handoff
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.staging import Staging
from mpu_cli.errors import (
    OutputError,
)
from mpu_cli.server.aggregation.aggregate import aggregate
from mpu_cli.server.aggregation.settings import AggregateSettings
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PerturbSettings


def killed(action, *, commit, when):
    """Run `action` in a child that dies at its `commit`-th rename, before or after it."""
    child = os.fork()
    if child == 0:
        real, seen = Staging.commit, [0]

        def dying(self):
            seen[0] += 1
            if seen[0] == commit and when == "before":
                os._exit(9)
            real(self)
            if seen[0] == commit and when == "after":
                os._exit(9)

        Staging.commit = dying
        try:
            action()
        finally:
            os._exit(1)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 9
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


@pytest.mark.parametrize(("commit", "when"), [(1, "before"), (1, "after"), (2, "before")])
def test_a_first_perturb_that_died_is_completed_by_running_it_again(
    tiny_pair, tmp_path, entropy, commit, when
):
    """Before the handoff's rename nothing has left.

    The same command then works and leaves no rubbish.
    """
    pair = tiny_pair("llama")
    killed(
        lambda: publish(
            pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(1), offset=0.1
        ),
        commit=commit,
        when=when,
    )
    assert not (tmp_path / "h").exists() and leftovers(tmp_path)
    result = publish(pair.model, pair.base, tmp_path / "h", tmp_path / "s", entropy(2), offset=0.1)
    assert leftovers(tmp_path) == []
    states = {id_: record.state for id_, record in Lineage.read(tmp_path / "s").handoffs.items()}
    assert states.pop(result.handoffs[0].id) == "issued"
    # Once the secret is in place the server cannot know that the handoff never left: the record of
    # it stays.
    assert list(states.values()) == ([] if (commit, when) == (1, "before") else ["prepared"])


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_later_perturb_that_died(server, when):
    """A handoff that is in place becomes issued at the next command.

    One that is not stays prepared, and accepts nothing.
    """
    update = server.update(server.perturb())
    server.aggregate(update, out="a")
    killed(lambda: server.perturb("a"), commit=1, when=when)
    pending = [record for record in server.lineage.handoffs.values() if record.state == "prepared"]
    folder = server.root / "handoff-3"
    assert len(pending) == 1 and folder.exists() == (when == "after")
    server.count = 5
    server.entropy.new_id()  # the operating system would not repeat itself either
    server.entropy.new_id()
    server.aggregate(update, out="b", server_lr=0.5, fork=True)
    lineage = server.lineage
    assert lineage.handoffs[pending[0].id].state == ("issued" if when == "after" else "prepared")
    assert lineage.accepted(digest(server.root / "a")) == (when == "after")
    server.perturb("a", fork=True)
    assert server.lineage.accepted(digest(server.root / "a"))


def test_a_handoff_that_left_unseen_can_be_answered(server):
    """A handoff that was moved away right after the crash is still answered.

    The update proves that it left.
    """
    killed(lambda: server.perturb(), commit=2, when="after")
    (server.root / "handoff-1").rename(server.root / "sent")
    (record,) = server.lineage.handoffs.values()
    server.count = 5
    server.entropy.new_id()
    server.entropy.new_id()
    server.entropy.new_id()
    server.perturb()
    assert server.lineage.handoffs[record.id].state == "prepared"
    server.aggregate(server.update((server.root / "sent", record)))
    assert server.lineage.handoffs[record.id].state == "issued"


def test_a_handoff_that_was_renamed_but_not_recorded_can_be_answered(server):
    """A crash after the handoff's rename loses nothing: its update is aggregated."""
    killed(lambda: server.perturb(), commit=2, when="after")
    record = next(iter(server.lineage.handoffs.values()))
    assert record.state == "prepared" and read_handoff(server.root / "handoff-1").id == record.id
    server.aggregate(server.update((server.root / "handoff-1", record)))
    assert server.lineage.handoffs[record.id].state == "issued"


def test_a_replacing_perturb_that_died_does_not_count_the_old_handoff_as_the_new_one(server):
    """A crash before the rename with --force leaves the old handoff, which stays the old one."""
    folder, old = server.perturb()

    def again():
        settings = PerturbSettings(check="none")
        perturb(
            Located(server.pair.model, None),
            Located(server.pair.base, None),
            Target(folder, server.secret, force=True),
            settings,
            entropy=server.entropy,
        )

    killed(again, commit=1, when="before")
    assert read_handoff(folder).id == old.id
    server.entropy.new_id()
    server.entropy.new_id()
    server.perturb()
    states = [record.state for record in server.lineage.handoffs.values() if record.id != old.id]
    assert (
        sorted(states) == ["issued", "prepared"]
        and server.lineage.handoffs[old.id].state == "issued"
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_aggregation_that_died_is_completed_by_running_it_again(server, when):
    """Before the rename the result is made anew.

    After it the run finds the finished result and commits its record.
    """
    update = server.update(server.perturb())
    killed(lambda: server.aggregate(update), commit=1, when=when)
    pending = [record for record in server.lineage.models.values() if record.state == "prepared"]
    assert len(pending) == 1 and (server.root / "next").exists() == (when == "after")
    result = server.aggregate(update)
    assert (result.changed is None) == (when == "after") and result.model.digest == pending[
        0
    ].digest == digest(server.root / "next")
    assert all(record.state == "committed" for record in server.lineage.models.values())
    assert leftovers(server.root) == []


def test_a_result_whose_record_is_pending_is_committed_by_use(server):
    """A model that was renamed into place before a crash is accepted when it is handed out."""
    update = server.update(server.perturb())
    killed(lambda: server.aggregate(update), commit=1, when="after")
    (server.root / "next").rename(server.root / "moved")
    server.perturb("moved")
    assert server.lineage.head == digest(server.root / "moved")
    assert all(record.state == "committed" for record in server.lineage.models.values())


def test_a_finished_result_is_not_overwritten(server):
    """The same command again refuses, and changes nothing.

    With --force it makes the same model again.
    """
    update = server.update(server.perturb())
    first = server.aggregate(update)
    before = fingerprint(server.root)
    for rate in (1.0, 0.5):
        with pytest.raises(OutputError, match="exists and is not empty"):
            server.aggregate(update, server_lr=rate)
    assert fingerprint(server.root) == before
    out = server.root / "next"
    again = aggregate(
        [update],
        server.secret,
        Located(server.pair.model, None),
        out,
        AggregateSettings(),
        force=True,
    )
    assert again.model == first.model and fingerprint(server.root) == before


def test_interrupted_writes_leave_the_old_state(server, monkeypatch):
    """An exception at the rename leaves no handoff, no model and no partial directory."""
    update = server.update(server.perturb())

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Staging, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.aggregate(update)
    with pytest.raises(KeyboardInterrupt):
        server.perturb()
    monkeypatch.undo()
    assert not (server.root / "next").exists() and leftovers(server.root) == []
    server.aggregate(update)
    assert (
        digest(server.root / "next") == server.lineage.children(digest(server.pair.model))[0].digest
    )
