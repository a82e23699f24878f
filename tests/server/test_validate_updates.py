"""The gates of aggregate: replays, missing copies, bad tensors, split handoffs."""

import pytest
import torch
from two_parties import (
    change_all,
    difference,
    fingerprint,
    hand_back,
    moved,
    relative,
    small_change,
    steps_of,
    train_all,
    write_update,
)

from mpu_cli.bundle.manifest import MANIFEST, UpdateCopy, UpdateManifest, encode
from mpu_cli.bundle.read import read_handoff, read_update
from mpu_cli.errors import (
    GateError,
)


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
    """The cosine of the changes, with T undone, finds swapped, repeated or unlike copies."""
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
    assert {"--min-agreement", "--kappa"} <= set(str(caught.value.hint).split())
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
    """An update whose `of` names another copy is refused, even without any T."""
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
    """An update of another lineage's handoff, or with a wrong handoff digest, is refused."""
    server.perturb()
    other = type(server)(tiny_pair("llama"), tmp_path / "other", entropy(2))
    other.root.mkdir()
    with pytest.raises(GateError, match="which this lineage never made"):
        server.aggregate(other.update(other.perturb()))
    update = server.update(server.perturb())
    honest = read_update(update)
    (update / MANIFEST).write_bytes(
        encode(UpdateManifest(honest.handoff_id, "0" * 64, honest.copies))
    )
    with pytest.raises(GateError, match="the update was made from handoff"):
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
    update_sum = difference(server.root / "next", server.pair.model)
    assert relative({name: update_sum[name] for name in change}, change) <= 1e-5


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
    """An update beyond --max-relative-norm is refused at any server learning rate."""
    update = server.update(server.perturb(), share=1.0)
    for rate in (1.0, 0.01):
        with pytest.raises(GateError, match=r"of the model's norm, more than 0\.5"):
            server.aggregate(update, server_lr=rate)
    assert not (server.root / "next").exists() and len(server.lineage.models) == 1
    opened = {"max_tensor_norm": 2.0, "max_row_norm": 3.0}  # those of single tensors
    result = server.aggregate(update, max_relative_norm=1.0, **opened)
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
    """One bad tensor in one copy refuses the whole update and is named."""
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
    update_sum = difference(server.root / "next", server.pair.model)
    assert relative({name: update_sum[name] for name in change}, change) <= 1e-5


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
