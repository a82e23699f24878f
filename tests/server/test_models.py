"""A lineage over its rounds: acceptance, forks and several clients."""

import shutil

import pytest
from two_parties import (
    difference,
    digest,
    fingerprint,
    publish,
    relative,
    small_change,
    take_back,
)

from mpu_cli.bundle.manifest import listed
from mpu_cli.bundle.read import read_update
from mpu_cli.checkpoint.digest import file_digest
from mpu_cli.checkpoint.locate import Located
from mpu_cli.errors import (
    BadModelError,
    BadSecretError,
    BusyError,
    GateError,
)
from mpu_cli.server.lineage.models import open_locked
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PerturbSettings


def test_an_aggregated_model_is_a_candidate_until_it_is_used(server):
    """Writing a result does not move the head; using it in perturb or aggregate does."""
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
    """A redo with another --server-lr is allowed until a result is used, then only with --fork."""
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


def test_an_unknown_model_with_an_update_that_is_none_names_the_secret(server, tiny_pair):
    """Neither argument belongs to the lineage, so --secret is the one that is wrong."""
    server.perturb()
    foreign = tiny_pair("llama", seed=5).model
    with pytest.raises(GateError, match="is not in the lineage") as refused:
        take_back(server.root / "nothing", server.secret, foreign, server.root / "out")
    assert refused.value.hint == (
        "the update answers no handoff of this lineage either: give as --secret the directory that"
        " mpu perturb wrote for it"
    )


def test_a_model_card_without_a_digest_still_tells_that_there_is_a_lineage(server):
    """The Hub's editor may have removed the line; a second lineage is still refused."""
    server.aggregate(server.update(server.perturb()), out="a")
    card = server.root / "a" / "README.md"
    lines = card.read_text().splitlines(keepends=True)
    card.write_text("".join(line for line in lines if not line.startswith("- digest")))
    elsewhere = server.root / "elsewhere"
    with pytest.raises(GateError) as refused:
        publish(
            server.root / "a",
            server.pair.base,
            server.root / "h",
            elsewhere,
            server.entropy,
            new_lineage=False,
        )
    assert refused.value.message == (
        f"{server.root}/a: its README.md says that mpu aggregate made it, so it has a lineage, and"
        f" {elsewhere} holds none"
    )
    assert not elsewhere.exists()


def test_the_card_of_a_model_from_the_hub_names_its_source(server):
    """`base_model` is what the Hub shows; the commit stays in the record."""
    perturb(
        Located(server.pair.model, f"org/model@{'0' * 40}"),
        Located(server.pair.base, None),
        Target(server.root / "h", server.secret, new_lineage=True),
        PerturbSettings(check="none"),
        entropy=server.entropy,
    )
    (record,) = server.lineage.handoffs.values()
    server.aggregate(server.update((server.root / "h", record)), out="a")
    card = (server.root / "a" / "README.md").read_text()
    assert "\nbase_model: org/model\n" in card and "0000" not in card


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
    update_sum = difference(server.root / "b", server.pair.model)
    assert relative({name: update_sum[name] for name in both}, both) <= 1e-5
    assert {record.holder for record in server.lineage.handoffs.values()} == {
        "ana",
        "ben",
        "client",
    }


def test_two_clients_in_one_call(server):
    """Updates of different handoffs are summed, and the model's record names both."""
    updates = [server.update(server.perturb(), number=number) for number in (0, 1)]
    result = server.aggregate(updates)
    assert (
        len(result.model.updates) == len(result.model.handoffs) == 2 and len(result.agreement) == 2
    )
    changes = [small_change(server.pair.model, number=number) for number in (0, 1)]
    both = {name: changes[0][name] + changes[1][name] for name in changes[0]}
    update_sum = difference(server.root / "next", server.pair.model)
    assert relative({name: update_sum[name] for name in both}, both) <= 1e-5


def test_a_replay_onto_any_descendant_is_refused(server):
    """A model whose chain has an update refuses it, and refuses another one of its handoff."""
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
