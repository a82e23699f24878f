"""`mpu audit handoff` on the demo's model: what leaks is what perturb states."""

import shutil
from math import hypot, sqrt
from operator import itemgetter

import pytest
import torch
from rounds import quietly
from safetensors.torch import load_file, save_file
from two_parties import change_all, layout_of, small_change, take_back

from mpu_cli.server.lineage.models import Lineage
from tiny_models import make_model, save


def left(noise):
    """What a best linear estimate leaves of a task vector of size 1."""
    return noise / hypot(1, noise)


def assert_between(row, linear):
    """Stated is the linear bound or less; measured lies between the two, ± 5 %."""
    assert 0.8 * linear < row["stated"] < 1.001 * linear
    assert 0.95 * row["stated"] < row["measured"] < 1.05 * linear


def test_the_papers_protocol_gives_the_model_to_who_holds_all_copies(owner):
    """One copy leaves κα; all of them, offset 0, leave less than 1e-4 at κ = .1."""
    (handoff,) = owner.perturb(kappa=0.1)
    rows = owner.rows(handoff, options=("--layers", "2"))
    copies = [row for row in rows.values() if len(row["copies"]) == 1]
    expected = sorted(left(0.1 * alpha) for alpha in (1, 1.5, 2))
    for row, linear in zip(sorted(copies, key=itemgetter("stated")), expected, strict=True):
        assert_between(row, linear)
    pooled = rows["handoff-1"]
    assert pooled["stated"] == 0 and pooled["measured"] < 1e-4 and pooled["exact"] > 0.5
    errors = {it["label"]: it["error"] for it in pooled["attempts"] if it["attack"] == "pooling"}
    assert errors["default α"] < 1e-6
    entries = 2 * (344 * 128 * 3 + 128 * 128 * 3)  # of two layers, about
    assert errors["least squares"] < 3 * sqrt(2 / entries)  # secret α: √((m − 1)/N), up to chance
    assert not pooled["alignment_failed"]


def test_copies_give_the_model_away_without_the_base_too(own_base):
    """The first copy is then the anchor of the others."""
    (handoff,) = own_base.perturb(kappa=0.1)
    shutil.rmtree(own_base.base)
    done = own_base.audit(handoff, options=("--layers", "2"))
    rows = {row["pool"]: row for row in done.json["rows"]}
    assert done.code == 0 and not done.json["base"] and "attacked without it" in done.out
    assert rows["handoff-1"]["measured"] < 1e-4
    worst = [row["measured"] for row in rows.values() if len(row["copies"]) == 1]
    assert sorted(worst) == pytest.approx([0.1, 0.15, 0.2], rel=0.05)


def test_another_family_with_norms_of_queries_and_keys(owner, tiny_pair):
    """Qwen3: half turns in place of quarter turns, more query than hidden coordinates."""
    pair = tiny_pair("qwen3")
    owner.model, owner.base = pair.model, pair.base
    (handoff,) = owner.perturb(kappa=0.1, copies=2)
    rows = owner.rows(handoff)
    copies = [row["measured"] for row in rows.values() if len(row["copies"]) == 1]
    assert sorted(copies) == pytest.approx([left(0.1), left(0.2)], rel=0.05)
    assert rows["handoff-1"]["measured"] < 1e-4


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"denoising": "extrapolation"}, 1e-6),
        ({"denoising": "extrapolation", "nodes": (1.0, -1.3)}, 0.01),
        ({"reparam": "rotation"}, 1e-4),
        ({"alphas": (1.0, 1.7)}, 0.01),
        ({"alphas": (1.0, 1.1, 1.9)}, 1e-3),
        ({"copies": 2, "alphas": (1.0, 1.0)}, 1e-6),
    ],
)
def test_other_draws_fall_too(owner, settings, limit):
    """Extrapolation, rotations, and secret α or nodes of the user's own."""
    chosen = {"copies": len(settings.get("alphas", settings.get("nodes", (1, 2, 3)))), **settings}
    (handoff,) = owner.perturb(kappa=0.1, **chosen)
    assert owner.rows(handoff, options=("--layers", "1"))["handoff-1"]["measured"] < limit


def test_an_offset_stays_and_is_what_was_stated(owner):
    """C = .1 over two rounds with all copies: never less than .9 of c/√(1 + c²)."""
    handoffs = [owner.perturb(kappa=0.1, offset=0.1, copies=2)[0], owner.perturb(copies=2)[0]]
    rows = owner.rows(*handoffs, options=("--layers", "2"))
    everything = rows["all 2 handoffs"]
    assert_between(everything, left(0.1))
    assert all(row["measured"] > 0.95 * row["stated"] for row in rows.values())


def test_two_rounds_with_an_update_between_need_both_models(owner):
    """Each round is scored with its own θ, and a pool of both with the newer one."""
    (first,) = owner.perturb(kappa=0.1, copies=2)
    (record,) = Lineage.read(owner.secret).handoffs.values()
    update, after = owner.root / "update", owner.root / "next"
    change = small_change(owner.model, share=0.001)
    change_all(owner.secret, record, owner.model, first, update, change)
    take_back(update, owner.secret, owner.model, after)
    (second,) = owner.perturb(model=after, kappa=0.1, copies=2)
    done = owner.audit(first, second)
    assert done.code == 1 and f"{second}: the model that it was made from" in done.out
    rows = owner.rows(first, second, options=("--model", after, "--layers", "1"))
    assert max(rows[name]["measured"] for name in ("handoff-1", "handoff-2")) < 1e-4
    assert rows["all 2 handoffs"]["stated"] == 0 and rows["all 2 handoffs"]["measured"] < 0.01


def test_holders_of_a_split_know_what_was_stated_of_every_group(owner):
    """κ = 1 over three holders: each, each two, and all together; the ledger says the same."""
    handoffs = owner.perturb(kappa=1.0, split=True, client="lab")
    done = owner.audit(*handoffs, options=("--layers", "all"))
    rows = {row["pool"]: row for row in done.json["rows"]}
    assert done.code == 0 and len(rows) == 7
    for row in rows.values():
        if len(row["copies"]) < 3:
            assert_between(row, 1.2 * row["stated"])
    assert rows["all 3 handoffs"]["measured"] < 1e-4
    assert rows["holder-2/copy-1"]["holders"] == ["lab-2"]
    ledger = {row["holder"]: row for row in done.json["ledger"]}
    assert ledger["lab-1"]["measured"] == rows["holder-1/copy-1"]["measured"]
    assert ledger["all together"]["measured"] == rows["all 3 handoffs"]["measured"]


def test_rounding_to_the_grid_of_a_bfloat16_model_gives_entries_back(owner, tiny_pair):
    """Noise far below half a step of the base's own grid hides nothing."""
    pair = tiny_pair("llama", dtype="bfloat16")
    owner.model, owner.base = pair.model, pair.base
    (handoff,) = owner.perturb(kappa=0.001, copies=1, dtype="float32")
    done = owner.audit(handoff)
    (row,) = done.json["rows"]
    errors = {it["attack"]: it["error"] for it in row["attempts"]}
    assert row["nearest"].startswith("grid: rounded to bfloat16")
    assert row["exact"] > 0.9, (errors, row["exact"])
    assert done.json["base_exact"] < 0.5


def test_a_bfloat16_fine_tune_of_a_float32_base_has_a_grid_of_its_own(owner, tiny_pair, tmp_path):
    """The base has no grid, but the copies show the model's; a float32 model shows none."""
    pair = tiny_pair("llama", dtype="bfloat16")
    owner.model, owner.base = pair.model, shutil.copytree(pair.base, tmp_path / "float32")
    base, seeded = load_file(owner.base / "model.safetensors"), torch.Generator().manual_seed(0)
    moved = {
        name: it.float() * (1 + 1e-4 * torch.randn(it.shape, generator=seeded))
        for name, it in base.items()
    }
    save_file(moved, owner.base / "model.safetensors", {"format": "pt"})
    (handoff,) = owner.perturb(kappa=0.003, copies=1, dtype="float32")
    (row,) = owner.rows(handoff, options=("--layers", "all")).values()
    assert row["nearest"].startswith("grid: rounded to bfloat16")
    assert row["exact"] > 0.5 and 0.9 * row["stated"] < row["measured"] < 0.002
    pair = tiny_pair("llama")
    owner.model, owner.base = pair.model, pair.base
    (handoff,) = owner.perturb(kappa=0.003, copies=1, secret=tmp_path / "other")
    (row,) = owner.rows(handoff, secret=tmp_path / "other").values()
    assert not [attempt for attempt in row["attempts"] if attempt["attack"] == "grid"]


def test_rounding_where_it_helps_reaches_what_was_stated(owner, tiny_pair, tmp_path):
    """A light bfloat16 fine-tune, κ = .3: plain rounding stops 10 % above the stated number."""
    pair = tiny_pair("llama", dtype="bfloat16")
    owner.model, owner.base = pair.model, shutil.copytree(pair.base, tmp_path / "near")
    weights, base = (load_file(it / "model.safetensors") for it in (owner.model, owner.base))
    for name, tensor in base.items():
        near = weights[name].float().lerp(tensor.float(), 0.02 / 0.15)
        base[name] = near.to(tensor.dtype)
    save_file(base, owner.base / "model.safetensors", {"format": "pt"})
    (handoff,) = owner.perturb(kappa=0.3, copies=1, dtype="float32")
    (row,) = owner.rows(handoff, options=("--no-behaviour", "--layers", "all")).values()
    assert row["measured"] == pytest.approx(row["stated"], rel=0.06)
    assert row["nearest"].startswith("grid: rounded to bfloat16 where")


def test_a_layer_that_equals_the_base_is_not_taken_for_a_leak(owner, tmp_path):
    """With κ = 0 only the offset says which layers hide anything: the middle one does not."""
    owner.model = shutil.copytree(owner.model, tmp_path / "partly-tuned")
    weights, base = (load_file(it / "model.safetensors") for it in (owner.model, owner.base))
    layout = layout_of(owner.model)
    for name in layout.layers[len(layout.layers) // 2].noised:
        weights[name] = base[name].to(weights[name].dtype)
    save_file(weights, owner.model / "model.safetensors", {"format": "pt"})
    (handoff,) = owner.perturb(kappa=0, offset=0.1, copies=1)
    options = ("--layers", "1", "--no-behaviour")
    (row,) = owner.audit(handoff, options=options).json["rows"]
    assert not row["worse_than_stated"] and row["measured"] > 0.9 * row["stated"] > 0.05


def test_what_leaks_more_than_stated_is_exit_1(owner, monkeypatch):
    """A statement that is too good is a bug of perturb, and the audit says so after its table."""
    (handoff,) = owner.perturb(kappa=0.1, copies=1)
    monkeypatch.setattr("mpu_cli.server.lineage.exposure.draw_noise", lambda *_: 0.5)
    done = owner.audit(handoff, options=("--layers", "1"))
    assert done.code == 1 and done.json["rows"][0]["worse_than_stated"]
    assert done.json["error"]["message"].endswith("more leaks than stated")
    assert done.json["error"]["hint"].startswith("run it with --layers all")
    done = owner.audit(handoff, options=("--layers", "all", "--no-behaviour"))
    assert done.code == 1 and done.json["error"]["hint"].startswith("please report it")


def test_a_condition_on_the_numbers_is_a_gate(owner):
    """--fail-if sees what one copy leaves unknown; the table is printed all the same."""
    (handoff,) = owner.perturb(kappa=0.1, copies=1)
    words = ("--layers", "1", "--fail-if", "one_copy<0.2 and exact<1")
    done = owner.audit(handoff, options=words)
    assert done.code == 1 and done.json["rows"]
    assert done.json["numbers"]["one_copy"] == done.json["numbers"]["all_copies"]
    assert done.json["error"]["message"] == done.json["failed_gates"][0]
    assert done.json["failed_gates"][0].startswith(f"--fail-if {words[-1]}: one_copy is 0.")
    done = owner.audit(handoff, options=("--fail-if", "two_copies<1"))
    assert refusal(done) == (2, "--fail-if two_copies<1: there is no number two_copies")


def refusal(done):
    """The message of an audit that must fail, with its exit code."""
    return done.code, done.json["error"]["message"]


def test_what_does_not_belong_is_refused_by_name(own_base, tmp_path, tokenizer):
    """Another lineage, model or base, a handoff twice, a missing copy, a wrong --layers."""
    owner = own_base
    (handoff,) = owner.perturb(copies=2)
    (foreign,) = owner.perturb(copies=1, secret=tmp_path / "other", new_lineage=True)
    code, message = refusal(owner.audit(foreign))
    assert code == 1 and message.endswith(f"is not in the lineage of {owner.secret}")
    other = save(make_model(), tokenizer, tmp_path / "other-model")
    code, message = refusal(owner.audit(handoff, model=other))
    assert code == 1 and message.startswith(f"--model {other}: no handoff given was made from it")
    code, message = refusal(owner.audit(handoff, base=owner.model))
    assert code == 3 and message.startswith(f"--base {owner.model}: another base (digest ")
    assert refusal(owner.audit(handoff, handoff)) == (2, f"{handoff}: this handoff is given twice")
    assert refusal(owner.audit(handoff, options=("--layers", "0"))) == (
        2,
        "--layers 0: expected a whole number, at least 1, or all",
    )
    shutil.rmtree(handoff / "copy-2")
    code, message = refusal(owner.audit(handoff))
    assert code == 3 and "copy-2" in message


@pytest.mark.parametrize("scope", ["layers", "all"])
def test_tensors_outside_the_layers_are_named_as_not_attacked(owner, tiny_pair, scope):
    """No number is about embeddings, final norm and head: with --scope all they have noise."""
    pair = tiny_pair("llama")
    owner.model, owner.base = pair.model, pair.base
    # The tiny fine-tune leaves them as the base has them, so the weights are the unit.
    unit = {"noise_relative_to": "weights"} if scope == "all" else {}
    (handoff,) = owner.perturb(kappa=0.1, copies=1, scope=scope, **unit)
    shown = owner.audit(handoff).json["not_attacked"]
    outside = {
        "embedding": ["model.embed_tokens.weight"],
        "final norm": ["model.norm.weight"],
        "head": ["lm_head.weight"],
    }
    noised, others = (outside, {}) if scope == "all" else ({}, outside)
    assert shown == {"with_noise": noised, "as_they_are": others}
    code = quietly(
        (*("audit", "handoff", handoff, "--secret", owner.secret, "--model", owner.model),)
        + ("--no-behaviour",)
    )
    said = "not attacked" if scope == "all" else "given as they are"
    assert code == 0 and f"{said} " in owner.capsys.readouterr().out


def test_who_holds_more_copies_is_left_no_more(owner):
    """A holder may leave the noisier of two copies aside: 3 of them tell little beside .03."""
    handoffs = [owner.perturb(kappa=kappa, copies=1)[0] for kappa in (0.03, 3.0)]
    rows = owner.rows(*handoffs, options=("--layers", "1"))
    single = [row["measured"] for row in rows.values() if len(row["copies"]) == 1]
    assert rows["all 2 handoffs"]["measured"] <= min(single)
