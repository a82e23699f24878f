"""What perturb and inspect say about exposure: "at most", per holder, with the unit."""

from math import sqrt
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "secret-v1"


@pytest.fixture
def perturb(mpu, tiny_pair, tmp_path):
    """`perturb("h", "-m", 1, …)`: publish a tiny model under tmp_path with the secret `s`."""
    pair = tiny_pair("llama", num_hidden_layers=1)

    def call(handoff, *options, secret="s", base=True):
        given = ("--base", pair.base) if base else ()
        lineage = "--secret" if (tmp_path / secret).exists() else "--new-lineage"
        given += ("--handoff", tmp_path / handoff, lineage, tmp_path / secret, "--check", "none")
        return mpu("perturb", pair.model, *given, *options)

    return call


@pytest.mark.parametrize(
    ("kappa", "offset", "stated"),
    [(0, 1, sqrt(1 / 2)), (1, 1, sqrt(2 / 3)), (1000, 0, 1.0), (0.1, 0, 0.1 / sqrt(1.01))],
)
def test_one_copy_is_stated_with_the_prior(perturb, kappa, offset, stated):
    """s/√(1 + s²), never above 1, in text and JSON; both say "at most"."""
    told = perturb(
        "h", "-m", 1, "--kappa", kappa, "--offset", offset, "--reparam", "none", "--json"
    ).json
    assert told["exposure"] == pytest.approx(
        {"no_copy": 1, "one_copy": stated, "all_copies": stated, "order": 1}, rel=1e-4
    )
    assert (
        told["exposure"]["one_copy"] <= 1
        and "at most" in told["exposure_means"]
        and "behaves" in told["exposure_means"]
    )
    out = perturb("h2", "-m", 1, "--kappa", kappa, "--reparam", "none", secret="s2").out
    assert "share of the task vector still unknown (upper bound)" in out and "with no copy" in out


def test_a_second_round_counts_the_copies_of_the_first(perturb, mpu, tmp_path):
    """For each holder of a split, and for two and three holders together."""
    alphas = ("-m", 3, "--kappa", 1, "--alphas", "1,1,1", "--split")
    first = perturb("h1", *alphas)
    assert (
        "to the best-informed 2 of 3 holders together" in first.out and "earlier" not in first.out
    )
    told = perturb("h2", *alphas, "--json").json["ledger"]
    two = 2 / 3 * (2 + 2**2)  # precision of two of three copies of one draw
    for number, precision in (("1", 1), ("2", two)):
        assert told["coalitions"][number] == pytest.approx(1 / sqrt(1 + 2 * precision))
    assert told["coalitions"]["3"] == told["all_together"] == 0 and told["handoffs"] == 6
    assert set(told["by_holder"]) == {"client-1", "client-2", "client-3"}
    assert (
        mpu("inspect", tmp_path / "s", "--json").json["exposure"]["coalitions"]
        == told["coalitions"]
    )
    out = perturb("h3", *alphas).out
    assert "to the best-informed of 3 holders, with 6 earlier handoffs" in out
    assert (
        "to anna, with 1 earlier handoff"
        in [perturb(f"a{n}", "-m", 1, "--client", "anna") for n in "12"][-1].out
    )


def test_inspect_corrects_exposure_in_old_records(mpu):
    """A secret written before there was a prior is read, and the exposure is computed again."""
    told = mpu("inspect", GOLDEN, "--json").json["exposure"]
    (stated,) = told["by_holder"].values()
    assert (
        stated == told["all_together"] == pytest.approx(0.05 / sqrt(1 + 0.05**2))
        and "at most" in told["means"]
    )
    assert "share still unknown (upper bound)" in mpu("inspect", GOLDEN).out


def test_interrupted_handoffs_count(perturb, mpu, tmp_path, monkeypatch):
    """A handoff with a record but no directory may have been sent; inspect and perturb say so."""
    assert perturb("h1", "-m", 1, "--kappa", 1).code == 0
    monkeypatch.setattr(
        "mpu_cli.checkpoint.staging.Staging.commit",
        lambda self: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    assert perturb("h2", "-m", 1, "--kappa", 1).code == 130
    monkeypatch.undo()
    told = mpu("inspect", tmp_path / "s", "--json").json["exposure"]
    assert told["by_holder"] == pytest.approx({"client": 1 / sqrt(3)}) and told["prepared"] == 1
    assert (
        "the numbers count 1 interrupted handoff that the client may or may not have"
        in mpu("inspect", tmp_path / "s").out
    )
    third = perturb("h3", "-m", 1, "--kappa", 1)
    assert (
        "to client, with 2 earlier handoffs" in third.out
        and "the numbers count 1 interrupted handoff " in third.out
    )


def test_without_a_base_the_unit_is_explained(perturb):
    """What 1 means if noise is relative to the weights, and that a base changes it."""
    out = " ".join(perturb("h", "-m", 1, "--kappa", 0.01, base=False).out.split())
    assert (
        "share of the weights still unknown (upper bound)" in out
        and "if a base exists, name it with --base" in out
    )
    out = " ".join(
        perturb(
            "h2", "-m", 1, "--kappa", 0.01, "--noise-relative-to", "weights", secret="s2"
        ).out.split()
    )
    assert "the base alone leaves" in out and "if a base exists" not in out
