"""Two rounds of one client: the update between them is read off the copies."""

from two_parties import change_all, small_change, take_back

from mpu_cli.server.lineage.models import Lineage


def test_the_update_between_two_rounds_shows(owner, tmp_path):
    """An update of 1 % of the weights, under rotations and an offset several times as large."""
    settings = {"offset": 0.3, "reparam": "rotation"}
    (first,) = owner.perturb(kappa=0.1, **settings)
    lineage = Lineage.read(owner.secret)
    (record,) = lineage.handoffs.values()
    change_all(
        owner.secret, record, owner.model, first, tmp_path / "update", small_change(owner.model)
    )
    take_back(tmp_path / "update", owner.secret, owner.model, tmp_path / "next")
    (second,) = owner.perturb(
        kappa=0.1, model=tmp_path / "next", reparam=settings.get("reparam", "signed-permutation")
    )
    done = owner.audit(first, second, options=("--layers", "2", "--model", tmp_path / "next"))
    assert done.code == 0, done.out
    (row,) = done.json["updates"]
    assert row["rounds"] == [1, 2] and row["stated"] is None
    assert row["pool"] == "all 2 handoffs"
    assert row["measured"] < 0.05 and row["cosine"] > 0.99


def test_a_client_reads_secret_weights_off_its_own_update(owner, tmp_path):
    """α of the user's own, second round: least squares leaves .001, the client's update nothing."""
    update, following = tmp_path / "update", tmp_path / "next"
    secret = {"kappa": 0.1, "copies": 2, "alphas": (1.0, 1.7)}
    (first,) = owner.perturb(**secret)
    (record,) = Lineage.read(owner.secret).handoffs.values()
    change_all(owner.secret, record, owner.model, first, update, small_change(owner.model))
    take_back(update, owner.secret, owner.model, following)
    (second,) = owner.perturb(model=following, **secret)
    handoffs, options = (first, second), ("--layers", "2", "--model", following)
    done = owner.audit(*handoffs, options=(*options, "--update", update))
    assert done.json["updates"][0]["measured"] < 0.02
    rows = {row["pool"]: row for row in done.json["rows"]}
    tried = {(it["attack"], it["label"]): it["error"] for it in rows["all 2 handoffs"]["attempts"]}
    exact = tried["two rounds", "with the client's own updates"]
    assert exact < 1e-5 < tried["two rounds", "smallest difference"] < 1e-3
    alone = {it["label"]: it["error"] for it in rows["handoff-2"]["attempts"]}
    assert tried["two rounds", "smallest difference"] < alone["least squares"] / 3
    # An update of a handoff that is not given cannot be used.
    done = owner.audit(second, options=("--update", update), model=following)
    assert done.code == 1 and "which is not given" in done.json["error"]["message"]
