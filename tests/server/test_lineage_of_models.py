"""One model over its rounds.

acceptance, forks, several clients, replays, gates, crashes between two renames, reissue.
"""

import os
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import save_file
from two_parties import (
    change_all,
    difference,
    digest,
    fingerprint,
    hand_back,
    moved,
    publish,
    relative,
    small_change,
    steps_of,
    take_back,
    train_all,
    weights,
    write_update,
)

from mpu_cli.bundle.manifest import MANIFEST, UpdateCopy, UpdateManifest, encode, listed
from mpu_cli.bundle.read import read_handoff, read_update
from mpu_cli.checkpoint.digest import file_digest
from mpu_cli.checkpoint.inventory import MARKER
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.staging import Staging
from mpu_cli.errors import (
    BadModelError,
    BadSecretError,
    BusyError,
    CheckFailedError,
    GateError,
    OutputError,
)
from mpu_cli.server.aggregation.aggregate import aggregate
from mpu_cli.server.aggregation.settings import AggregateSettings
from mpu_cli.server.lineage.models import Lineage, open_locked
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.reissue import reissue
from mpu_cli.server.publishing.settings import PerturbSettings


class Server:
    """A lineage under construction: numbered handoffs and updates, models by name."""

    def __init__(self, pair, root, entropy):
        self.pair, self.root, self.entropy, self.secret = pair, root, entropy, root / "server"
        self.count = 0

    def path(self, name):
        """A model by name; `root` is the first one."""
        return self.pair.model if name == "root" else self.root / name

    def perturb(self, model="root", **settings):
        """Hand a model out; returns the directory and its record(s)."""
        self.count += 1
        folder = self.root / f"handoff-{self.count}"
        records = publish(
            self.path(model), self.pair.base, folder, self.secret, self.entropy, **settings
        ).handoffs
        return folder, records[0] if len(records) == 1 else records

    def update(self, handed_out, model="root", number=0, share=0.01):
        """A client's answer: the same random change of every copy."""
        folder, record = handed_out
        self.count += 1
        out = self.root / f"update-{self.count}"
        change_all(
            self.secret,
            record,
            self.path(model),
            folder,
            out,
            small_change(self.pair.model, share, number),
        )
        return out

    def aggregate(self, updates, model="root", out="next", **settings):
        """Take updates back onto a model."""
        return take_back(updates, self.secret, self.path(model), self.root / out, **settings)

    @property
    def lineage(self):
        """What is on disk."""
        return Lineage.read(self.secret)


@pytest.fixture
def server(tiny_pair, tmp_path, entropy):
    """A server with a tiny Llama and nothing handed out yet."""
    return Server(tiny_pair("llama"), tmp_path, entropy(1))


# Acceptance and forks
# --------------------------------------------------------------------------------------------------


def test_an_aggregated_model_is_a_candidate_until_it_is_used(server):
    """The head stays where it is when a result is written, and moves when perturb or aggregate is given the result."""
    update = server.update(server.perturb())
    server.aggregate(update, out="a")
    root, candidate = digest(server.pair.model), digest(server.root / "a")
    assert server.lineage.head == root and not server.lineage.accepted(candidate)
    assert server.lineage.models[candidate].parent == root
    assert server.lineage.models[candidate].updates == (read_update(update).digest,)
    server.perturb("a")
    assert server.lineage.head == candidate and server.lineage.accepted(candidate)
    assert [record.digest for record in server.lineage.chain(candidate)] == [candidate, root]


def test_aggregating_onto_a_candidate_accepts_it(server):
    """Use by aggregate counts as use by perturb does."""
    first, second = server.perturb(client="a"), server.perturb(client="b")
    server.aggregate(server.update(first), out="a")
    result = server.aggregate(server.update(second, number=1), "a", "b")
    assert result.updates.staleness == 1
    assert server.lineage.accepted(digest(server.root / "a")) and not server.lineage.accepted(
        digest(server.root / "b")
    )


def test_several_candidates_of_one_update_until_one_is_accepted(server):
    """A redo with another --server-lr is allowed, and refused (but for --fork) once a result has been used."""
    update = server.update(server.perturb())
    for rate in (1.0, 0.5, 0.25):
        server.aggregate(update, out=f"rate-{rate}", server_lr=rate)
    assert len({digest(server.root / f"rate-{rate}") for rate in (1.0, 0.5, 0.25)}) == 3
    server.perturb("rate-0.5")
    with pytest.raises(GateError, match=r"another model .* was already accepted in its place"):
        server.aggregate(update, out="late", server_lr=0.1)
    for model in ("root", "rate-1.0"):  # its parent, and a candidate whose sibling was preferred
        with pytest.raises(GateError, match="already accepted in its place"):
            server.perturb(model)
    assert not (server.root / "late").exists()
    server.aggregate(update, out="late", server_lr=0.1, fork=True)


def test_a_fork_becomes_the_head_when_used(server):
    """With --fork an older model is worked on again; the newest accepted model is the head."""
    update = server.update(server.perturb())
    server.aggregate(update, out="a")
    server.perturb("a")
    fork = server.aggregate(update, out="b", server_lr=0.5, fork=True).model.digest
    with pytest.raises(GateError, match="already accepted in its place"):
        server.perturb("b")
    server.perturb("b", fork=True)
    lineage = server.lineage
    assert lineage.head == fork and len(lineage.children(digest(server.pair.model))) == 2
    server.perturb("root", fork=True)


def test_a_handoff_off_the_chain_is_refused(server):
    """An update that answers a handoff of another branch cannot be aggregated here."""
    update = server.update(server.perturb())
    server.aggregate(update, out="a")
    server.aggregate(update, out="b", server_lr=0.5)
    other = server.update(server.perturb("a"), "a", number=1)
    with pytest.raises(GateError, match="not an ancestor"):
        server.aggregate(other, "b", "c", fork=True)
    server.aggregate(other, "a", "c")


def test_a_model_that_the_lineage_does_not_know_is_refused(server, tiny_pair):
    """Neither perturb nor aggregate works on a foreign model.

    One flipped bit makes it foreign, re-sharding does not.
    """
    update = server.update(server.perturb())
    foreign = tiny_pair("llama", seed=5).model
    with pytest.raises(GateError, match="is not in the lineage"):
        take_back(update, server.secret, foreign, server.root / "out")
    with pytest.raises(GateError, match="is not in the lineage"):
        publish(foreign, server.pair.base, server.root / "h", server.secret, server.entropy)
    flipped = server.root / "flipped"
    shutil.copytree(server.pair.model, flipped)
    data = bytearray((flipped / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (flipped / "model.safetensors").write_bytes(data)
    with pytest.raises(GateError, match="is not in the lineage"):
        take_back(update, server.secret, flipped, server.root / "out")
    assert not (server.root / "out").exists() and not (server.root / "h").exists()
    server.aggregate(
        server.update(server.perturb(kappa=0.0), number=9), out="sharded", max_shard_bytes=20_000
    )
    assert (server.root / "sharded" / "model.safetensors.index.json").exists()
    server.perturb("sharded")


def test_a_lineage_keeps_its_base(server, tiny_pair):
    """Another base in a later round is refused.

    Σ and the attacker's knowledge would both be measured wrongly.
    """
    server.perturb()
    with pytest.raises(BadModelError, match="another base"):
        publish(
            server.pair.model,
            tiny_pair("llama", seed=7).base,
            server.root / "h",
            server.secret,
            server.entropy,
        )


def test_one_writer_at_a_time(server):
    """While one command holds the secret, another is told so and changes nothing."""
    update = server.update(server.perturb())
    with open_locked(server.secret), pytest.raises(BusyError, match="another mpu process"):
        server.aggregate(update)
    with open_locked(server.secret), pytest.raises(BusyError):
        server.perturb()
    server.aggregate(update)


# Several clients
# -------------------------------------------------------------------------------------------------------


def test_two_clients_in_one_round_both_end_up_in_the_head(server):
    """Each update is aggregated onto the current head.

    Both changes are in the result, and staleness is counted.
    """
    handed = [server.perturb(client=name) for name in ("ana", "ben")]
    changes = [small_change(server.pair.model, number=number) for number in (0, 1)]
    server.aggregate(server.update(handed[0], number=0), out="a")
    server.perturb("a")
    result = server.aggregate(server.update(handed[1], number=1), "a", "b")
    assert result.updates.staleness == 1 and len(server.lineage.chain(result.model.digest)) == 3
    both = {name: changes[0][name] + changes[1][name] for name in changes[0]}
    found = difference(server.root / "b", server.pair.model)
    assert relative({name: found[name] for name in both}, both) <= 1e-5
    assert {record.holder for record in server.lineage.handoffs.values()} == {
        "ana",
        "ben",
        "client",
    }


def test_two_clients_in_one_call(server):
    """Updates of different handoffs given together are summed, and the model's record names both."""
    updates = [server.update(server.perturb(), number=number) for number in (0, 1)]
    result = server.aggregate(updates)
    assert (
        len(result.model.updates) == len(result.model.handoffs) == 2 and len(result.agreement) == 2
    )
    changes = [small_change(server.pair.model, number=number) for number in (0, 1)]
    both = {name: changes[0][name] + changes[1][name] for name in changes[0]}
    found = difference(server.root / "next", server.pair.model)
    assert relative({name: found[name] for name in both}, both) <= 1e-5


def test_a_replay_onto_any_descendant_is_refused(server):
    """The same update, and another update of the same handoff, are refused on every model that has it in its chain."""
    handed = server.perturb()
    update = server.update(handed)
    server.aggregate(update, out="a")
    server.aggregate(server.update(server.perturb("a"), "a", number=1), "a", "b")
    again = server.update(handed, number=2)
    before = fingerprint(server.secret)
    for model in ("a", "b"):
        with pytest.raises(GateError, match="already in the model"):
            server.aggregate(update, model, "x", fork=True)
        with pytest.raises(GateError, match="another update of the same handoff"):
            server.aggregate(again, model, "x", fork=True)
    with pytest.raises(GateError, match="already in the model"):
        server.aggregate([again, again], "root", "x", fork=True)
    with pytest.raises(GateError, match="another update of the same handoff"):
        server.aggregate([update, again], "root", "x", fork=True)
    assert not (server.root / "x").exists()
    after = fingerprint(server.secret)
    assert {name: after[name] for name in before} == before


# Gates
# -----------------------------------------------------------------------------------------------------------------


def deltas_of(server, handed, number=0):
    """The honest deltas of every copy, by name."""
    folder, record = handed
    change = small_change(server.pair.model, number=number)
    steps = steps_of(server.secret, record, server.pair.model)
    assert folder.is_dir()
    return {name: moved(steps[name], server.pair.model, change) for name in steps}


@pytest.mark.parametrize(
    "fault", ["swapped", "repeated", "one copy trained on other data", "one copy unchanged"]
)
def test_copies_that_do_not_agree_are_refused(server, fault):
    """Swapped, repeated or unlike copies are found by the cosine of what they say once T is undone."""
    handed = server.perturb(copies=2)
    honest = deltas_of(server, handed)
    first, second = honest["copy-1"], honest["copy-2"]
    wrong = {
        "swapped": {"copy-1": second, "copy-2": first},
        "repeated": {"copy-1": first, "copy-2": first},
        "one copy trained on other data": {
            "copy-1": first,
            "copy-2": deltas_of(server, handed, 1)["copy-2"],
        },
        "one copy unchanged": {"copy-1": first, "copy-2": {}},
    }[fault]
    write_update(handed[0], server.root / "wrong", wrong)
    with pytest.raises(GateError, match="do not agree") as caught:
        server.aggregate(server.root / "wrong")
    assert float(caught.value.message.split("cosine ")[1].split(",")[0]) < 0.06
    assert not (server.root / "next").exists() and len(server.lineage.models) == 1
    write_update(handed[0], server.root / "right", honest)
    assert server.aggregate(server.root / "right").agreement[0] > 0.999
    server.aggregate(server.root / "wrong", out="trusted", min_agreement=-1.0)


def test_agreement_of_really_trained_copies(server):
    """At κ = .1 really trained copies agree far above the gate, and swapped they do not.

    The gate's two sides.
    """
    folder, record = server.perturb(copies=2)
    train_all(folder, server.root / "t", "adamw", steps=10)
    hand_back(folder, server.root / "t", server.root / "u")
    result = server.aggregate(server.root / "u")
    assert result.agreement[0] > 0.6
    trained = {
        copy.name: difference(server.root / "t" / copy.name, folder / copy.name)
        for copy in record.copies
    }
    trained = {
        name: {key: value.float() for key, value in tensors.items() if value.any()}
        for name, tensors in trained.items()
    }
    write_update(
        folder, server.root / "swapped", {"copy-1": trained["copy-2"], "copy-2": trained["copy-1"]}
    )
    with pytest.raises(GateError, match="do not agree"):
        server.aggregate(server.root / "swapped", out="x")


def test_copies_under_each_others_names_are_refused_by_name(server):
    """An update whose `of` belongs to another copy is refused even where no T tells the copies apart."""
    folder, _ = server.perturb(copies=2, reparam="none")
    update = server.update((folder, server.lineage.handoffs[read_handoff(folder).id]))
    honest = read_update(update)
    first, second = honest.copies
    swapped = UpdateManifest(
        honest.handoff_id,
        honest.handoff_digest,
        (
            UpdateCopy(first.name, second.of, "delta", first.files),
            UpdateCopy(second.name, first.of, "delta", second.files),
        ),
    )
    (update / MANIFEST).write_bytes(encode(swapped))
    with pytest.raises(GateError, match="was made from another copy"):
        server.aggregate(update)


def test_an_update_of_another_handoff_is_refused(server, tiny_pair, entropy, tmp_path):
    """An update that answers a handoff of another lineage, or misquotes the digest of this one, is refused."""
    server.perturb()
    other = Server(tiny_pair("llama"), tmp_path / "other", entropy(2))
    other.root.mkdir()
    with pytest.raises(GateError, match="which this lineage never made"):
        server.aggregate(other.update(other.perturb()))
    update = server.update(server.perturb())
    honest = read_update(update)
    (update / MANIFEST).write_bytes(
        encode(UpdateManifest(honest.handoff_id, "0" * 64, honest.copies))
    )
    with pytest.raises(GateError, match="the update answers handoff"):
        server.aggregate(update)


def test_missing_copies_are_refused_or_reweighted(server):
    """Without all copies aggregation is refused.

    --missing reweight uses the others and states the noise that is left.
    """
    handed = server.perturb(alphas=(1.0, 1.5, 2.0))
    honest = deltas_of(server, handed)
    write_update(
        handed[0], server.root / "two", {name: honest[name] for name in ("copy-1", "copy-3")}
    )
    with pytest.raises(GateError, match="2 of the 3 copies"):
        server.aggregate(server.root / "two")
    result = server.aggregate(server.root / "two", missing="reweight")
    (draw,) = result.updates.draws
    assert draw.missing == 1 and draw.weights == pytest.approx((2 / 3, 1 / 3))
    # −ε_2 is what the others leave: |w_1 α_1 (ε_1 + ε_3)| = 2/3 · 1 σ.
    assert draw.residual == pytest.approx(2 / 3)
    change = small_change(server.pair.model)
    found = difference(server.root / "next", server.pair.model)
    assert relative({name: found[name] for name in change}, change) <= 1e-5


def test_missing_nodes_leave_nothing_of_first_order_but_one_does(server):
    """Two of three nodes still cancel the first order; one alone leaves its own node."""
    handed = server.perturb(denoising="extrapolation", nodes=(1.0, -1.0, 2.0))
    for names, residual in ((("copy-1", "copy-3"), 0.0), (("copy-3",), 2.0)):
        out = server.root / f"of-{len(names)}"
        honest = deltas_of(server, handed, len(names))
        write_update(handed[0], out, {name: honest[name] for name in names})
        result = server.aggregate(out, out=f"from-{len(names)}", missing="reweight")
        assert result.updates.draws[0].residual == pytest.approx(residual, abs=1e-12)


def test_all_copies_leave_no_residual(server):
    """With every copy there, nothing of first order is stated to be left."""
    assert server.aggregate(server.update(server.perturb())).updates.draws[0].residual == 0.0


def test_the_norm_gate(server):
    """An update beyond --max-relative-norm of the model is refused, whatever the server's learning rate."""
    update = server.update(server.perturb(), share=1.0)
    for rate in (1.0, 0.01):
        with pytest.raises(GateError, match=r"of the model's norm, more than 0\.5"):
            server.aggregate(update, server_lr=rate)
    assert not (server.root / "next").exists() and len(server.lineage.models) == 1
    result = server.aggregate(update, max_relative_norm=1.0)
    assert 0.5 < result.changed.relative_norm < 1.0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda t: t | {"model.norm.weight": t["model.norm.weight"] * float("nan")},
            "NaN or infinity",
        ),
        (lambda t: t | {"model.norm.weight": t["model.norm.weight"] / 0.0}, "NaN or infinity"),
        (lambda t: t | {"model.extra.weight": torch.zeros(3)}, "model.extra.weight does not exist"),
        (lambda t: t | {"lm_head.weight": torch.zeros(64, 32)}, "the handoff freezes it"),
        (lambda t: t | {"model.norm.weight": torch.zeros(31)}, r"shape \[31\]"),
        (lambda t: t | {"model.norm.weight": torch.zeros(32, dtype=torch.float16)}, "F16"),
        (lambda t: t | {"model.norm.weight": torch.zeros(32, dtype=torch.int64)}, "I64"),
    ],
    ids=["NaN", "infinity", "foreign", "frozen", "shape", "float16", "integers"],
)
def test_a_bad_tensor_is_refused(server, spoil, message):
    """NaN, infinity, foreign and frozen tensors, other shapes and dtypes in one copy refuse the update, which is named."""
    handed = server.perturb(copies=2)
    honest = deltas_of(server, handed)
    write_update(
        handed[0],
        server.root / "u",
        {"copy-1": honest["copy-1"], "copy-2": spoil(honest["copy-2"])},
    )
    before = fingerprint(server.secret)
    with pytest.raises(GateError, match=message):
        server.aggregate(server.root / "u")
    assert not (server.root / "next").exists() and fingerprint(server.secret) == before
    assert sorted(item.name for item in server.root.iterdir() if item.name.startswith(".")) == []


# Split handoffs
# --------------------------------------------------------------------------------------------------------


def split_updates(server, folder, records, number=0):
    """Every holder's answer."""
    change = small_change(server.pair.model, number=number)
    updates = []
    for place, record in enumerate(records, 1):
        out = server.root / f"holder-{place}-update-{number}"
        change_all(
            server.secret, record, server.pair.model, folder / f"holder-{place}", out, change
        )
        updates.append(out)
    return updates, change


def test_a_split_round_is_aggregated_in_one_call(server):
    """Each holder gets a handoff of its own with one copy.

    All updates together return the change, some are refused.
    """
    folder, records = server.perturb(split=True, client="lab")
    assert [record.holder for record in records] == ["lab-1", "lab-2", "lab-3"] and len(
        {record.id for record in records}
    ) == 3
    assert len({record.draw for record in records}) == 1
    for place in (1, 2, 3):
        manifest = read_handoff(folder / f"holder-{place}")
        assert [copy.name for copy in manifest.copies] == ["copy-1"]
    updates, change = split_updates(server, folder, records)
    with pytest.raises(GateError, match="2 of the 3 copies"):
        server.aggregate(updates[:2])
    result = server.aggregate(updates[::-1])
    assert len(result.model.updates) == 3 and result.updates.draws[0].residual == 0.0
    found = difference(server.root / "next", server.pair.model)
    assert relative({name: found[name] for name in change}, change) <= 1e-5


def test_the_rest_of_a_split_is_refused_afterwards(server):
    """Once some copies of a draw are in the model, the others are too late.

    They would no longer cancel.
    """
    folder, records = server.perturb(split=True)
    updates, _ = split_updates(server, folder, records)
    server.aggregate(updates[:2], missing="reweight")
    with pytest.raises(GateError, match="other copies of the same draw"):
        server.aggregate(updates[2], "next", "later", missing="reweight")
    server.aggregate(updates, out="whole")


def test_a_holder_who_answers_for_another_is_refused(server):
    """A delta trained on another holder's copy does not agree with the rest."""
    folder, records = server.perturb(split=True, copies=2)
    change = small_change(server.pair.model)
    steps = [steps_of(server.secret, record, server.pair.model)["copy-1"] for record in records]
    for place, other in ((1, 2), (2, 2)):
        wrong = moved(steps[other - 1], server.pair.model, change)
        write_update(folder / f"holder-{place}", server.root / f"u{place}", {"copy-1": wrong})
    with pytest.raises(GateError, match="do not agree"):
        server.aggregate([server.root / "u1", server.root / "u2"])


# Crashes
# ---------------------------------------------------------------------------------------------------------------


def killed(action, *, commit, when):
    """Run `action` in a child that dies without any clean-up at its `commit`-th rename, before or after it."""
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


def leftovers(root):
    """Hidden files and directories below a folder."""
    return sorted(str(path.relative_to(root)) for path in root.rglob(".*") if path.name != MARKER)


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
    """After a crash before a --force'd handoff's rename, the handoff that still lies there is not taken for the new one."""
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
    """A model renamed into place just before a crash is accepted when it is handed out, wherever it was moved since."""
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
    """An exception at the rename (Ctrl-C, a full disk) leaves no handoff, no model, no partial directory."""
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


# Reissue
# ---------------------------------------------------------------------------------------------------------------


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
    """From its record alone every file of a handoff comes out the same, and nothing is added to the lineage."""
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
    """Another model than the handoff's, and a handoff that the lineage does not have, are refused; nothing is written."""
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
    with pytest.raises(CheckFailedError, match="does not come out the same"):
        reissue(Located(other, None), server.root / "again", server.secret, record.id)
    assert not (server.root / "again").exists() and leftovers(server.root) == []


# What is measured
# ------------------------------------------------------------------------------------------------------


def altered_base(pair, folder, change):
    """A base whose tensors were changed by `change(theta, base)`."""
    shutil.copytree(pair.base, folder)
    tensors = change(weights(pair.model), weights(pair.base))
    save_file(
        {key: value.contiguous() for key, value in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def test_a_model_that_equals_its_base_is_bad_input(server):
    """With no task vector in any layer there is nothing to hide and nothing to measure by."""
    with pytest.raises(BadModelError, match="equals its base in every layer"):
        publish(
            server.pair.model, server.pair.model, server.root / "h", server.secret, server.entropy
        )
    assert list(server.root.iterdir()) == []


def test_a_layer_that_equals_the_base_is_left_as_it_is(server):
    """One equal layer is published without noise, named in a warning, and the other is noised."""
    base = altered_base(
        server.pair,
        server.root / "base",
        lambda theta, base: {k: theta[k] if ".layers.1." in k else base[k] for k in theta},
    )
    result = publish(
        server.pair.model, base, server.root / "h", server.secret, server.entropy, reparam="none"
    )
    assert any(
        "equal to the base, so they get no noise: layer 1" in line for line in result.warnings
    )
    assert result.handoffs[0].sigma["layer 1"] == 0 < result.handoffs[0].sigma["layer 0"]
    theta = weights(server.pair.model)
    for name, tensor in weights(server.root / "h" / "copy-1").items():
        assert torch.equal(tensor, theta[name]) == (".layers.0." not in name), name


def test_bases_that_do_not_fit_are_refused(server):
    """A base without one of the tensors, or with another shape, is named with the tensor."""
    name = "model.layers.0.mlp.up_proj.weight"
    for number, (change, message) in enumerate(
        [
            (
                lambda theta, base: {k: v for k, v in base.items() if k != name},
                f"the base has no tensor {name}",
            ),
            (
                lambda theta, base: base | {name: torch.zeros(47, 32)},
                rf"{name} has shape \[47, 32\] in the base",
            ),
        ]
    ):
        base = altered_base(server.pair, server.root / f"base-{number}", change)
        with pytest.raises(BadModelError, match=message):
            publish(server.pair.model, base, server.root / "h", server.secret, server.entropy)
    assert not server.secret.exists() and not (server.root / "h").exists()


def test_tampered_records_are_refused(server):
    """Any edit of a record, also a swap of two valid ones, is found before anything is done."""
    server.perturb()
    server.perturb()
    first, second = sorted((server.secret / "handoffs").iterdir())
    good = first.read_bytes(), second.read_bytes()
    for spoiled in (good[0].replace(b'"issued"', b'"prepared"'), good[1], good[0][:-1], b""):
        first.write_bytes(spoiled)
        with pytest.raises(BadSecretError):
            server.lineage  # noqa: B018
    first.write_bytes(good[0])
    second.unlink()
    assert len(server.lineage.handoffs) == 1
    next((server.secret / "models").iterdir()).unlink()
    with pytest.raises(BadSecretError):
        server.lineage  # noqa: B018


def test_manifests_of_updates_list_what_is_there(server):
    """The helper of these tests writes the updates that a client would.

    Every listed digest is that of the file.
    """
    update = server.update(server.perturb())
    for copy in read_update(update).copies:
        path = update / copy.name / "delta.safetensors"
        assert copy.files == listed({path.name: (file_digest(path), path.stat().st_size)})
