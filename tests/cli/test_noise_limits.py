"""perturb --max-exposure, --kappa auto and --offset auto: what chooses or refuses the noise."""

import json
from math import sqrt

import pytest
import torch
from safetensors.torch import load_file

from mpu_cli.checkpoint.locate import Located
from mpu_cli.demo.demonstration import assets
from mpu_cli.errors import GateError
from mpu_cli.server.publishing import noise_search
from mpu_cli.server.publishing.perturb import Target
from mpu_cli.server.publishing.settings import PerturbSettings


def weights(directory):
    """All tensors of a model directory, by name."""
    return load_file(directory / "model.safetensors")


@pytest.fixture
def perturb(mpu, tiny_pair, tmp_path):
    """`perturb("h", "-m", 1, …)`: publish a tiny model under tmp_path with the secret `s`."""
    pair = tiny_pair("llama", num_hidden_layers=1)

    def call(handoff, *options, secret="s"):
        lineage = "--secret" if (tmp_path / secret).exists() else "--new-lineage"
        given = ("--base", pair.base, "--handoff", tmp_path / handoff, lineage, tmp_path / secret)
        return mpu("perturb", pair.model, *given, "--check", "none", "--reparam", "none", *options)

    call.pair = pair
    return call


@pytest.fixture
def probe(tmp_path):
    """Rows in the tiny model's words."""
    rows = [{"question": f"w{k} w{k + 1} ?", "answer": f"w{k + 2} w{k + 3} ."} for k in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "rows.jsonl"


def test_one_copy_for_each_client_is_helped_by_more_noise(perturb):
    """Draws of one copy do not cancel when they are pooled: more κ helps, and is what is named."""
    one = ("-m", 1, "--kappa", 1, "--max-exposure", 0.4)
    assert perturb("h1", *one, "--client", "a").code == 0
    done = perturb("h2", *one, "--client", "b")
    assert done.code == 1 and "all clients together would know 0.423" in done.err
    assert "hint: give a larger --kappa (the lineage's offset is fixed at 0); nothing" in done.err
    assert perturb("h2", *one, "--kappa", 10, "--client", "b").code == 0


def test_a_model_that_equals_its_base_is_refused_whatever_the_unit(mpu, tiny_pair, tmp_path):
    """Who has the base knows it: no noise hides it, and no share of nothing can stay unknown."""
    model, folder = tiny_pair("llama", num_hidden_layers=1).model, tmp_path / "h"
    given = ("--base", model, "--handoff", folder, "--secret", tmp_path / "s")
    more = ("--noise-relative-to", "weights", "--max-exposure", 0.5)
    done = mpu("perturb", model, *given, *more)
    assert (done.code, folder.exists()) == (3, False)
    assert "the model equals its base in every layer" in done.err


def test_a_client_that_would_know_too_much_gets_nothing(perturb, tmp_path):
    """Known is 1 minus unknown, over all rounds; the refused handoff leaves no trace."""
    one = ("-m", 1, "--kappa", 1)
    done = perturb("h1", *one, "--max-exposure", 0.2)  # 1 − .707 = .293
    assert done.code == 1
    assert "client would know 0.293 of the task vector (0.707 stays unknown)" in done.err
    assert "mpu: hint: give a larger --kappa, a larger --offset; nothing was written" in done.err
    assert not (tmp_path / "h1").exists()
    assert not (tmp_path / "s").exists()
    assert perturb("h1", *one, "--max-exposure", 0.3).code == 0
    before = sorted(tmp_path.rglob("*"))
    done = perturb("h2", *one, "--max-exposure", 0.3)  # with the first: 1 − 1/√3 = .423
    assert done.code == 1
    assert "client would know 0.423 of the task vector (0.577 stays unknown)" in done.err
    assert "give a larger --kappa (the lineage's offset is fixed at 0); nothing" in done.err
    assert sorted(tmp_path.rglob("*")) == before
    assert perturb("h2", *one, "--max-exposure", 0.43).code == 0


def test_nothing_helps_a_client_that_knows_everything(perturb):
    """All copies of a first draw without an offset gave the model away."""
    assert perturb("h1", "-m", 2).code == 0
    done = perturb("h2", "-m", 2, "--max-exposure", 0.5)
    assert done.code == 1 and "client would know 1 of the task vector" in done.err
    assert (
        "hint: the lineage's offset is fixed at 0, and what client already has leaves no more"
        " unknown; nothing was written" in done.err
    )


def test_all_clients_together_count(perturb, tmp_path):
    """Each holder of a split knows little, all of them everything, unless there is an offset."""
    split = ("--split", "--kappa", 1, "--alphas", "1,1,1", "--max-exposure", 0.4)
    done = perturb("h", *split)
    assert done.code == 1
    assert "all clients together would know 1 of the task vector (0 stays unknown)" in done.err
    assert "only an offset stays unknown when clients pool all copies" in done.err
    assert perturb("h", *split, "--offset", 1).code == 0
    one = ("-m", 1, "--kappa", 1, "--client", "anna", "--max-exposure")
    alone = 1 - sqrt(2 / 3)
    assert perturb("h2", *one, 0.3).code == 0  # all together stay at the offset: 1 − .707
    done = perturb("h3", *one, alone)
    assert done.code == 1 and "anna would know" in done.err
    for limit in (0, 2):
        done = perturb("h3", *one, limit)
        assert done.code == 2
        assert f"--max-exposure {limit}: expected a finite number above 0 and at most 1" in done.err


def away(model, copies):
    """As a probe: how far each copy is from the model, over the task vector's size of .15."""
    theta = weights(model)
    names = [name for name in theta if ".layers." in name]
    own = torch.cat([theta[name].ravel() for name in names])
    seen = [torch.cat([weights(copy)[name].ravel() for name in names]) for copy in copies]
    return {"model": 0.0} | {
        f"copy-{number}": float((copy - own).norm() / own.norm() / 0.148)
        for number, copy in enumerate(seen)
    }


@pytest.mark.parametrize(
    ("kappa", "offset", "noise"),
    [(False, True, 1.0), (True, True, sqrt(5.0))],
)
def test_the_search_finds_the_largest_noise_that_fits(
    tiny_pair, tmp_path, entropy, kappa, offset, noise
):
    """By a probe that measures the noise itself: that of the worst of two copies, α = 2."""
    pair = tiny_pair("llama", hidden_size=64, num_hidden_layers=1)
    result, trials = noise_search.perturb_within_budget(
        Located(pair.model, None),
        Located(pair.base, None),
        Target(tmp_path / "h", tmp_path / "s", new_lineage=True),
        PerturbSettings(copies=2, kappa=0.0, check="none", reparam="none"),
        noise_search.Search(kappa, offset, 0.3),
        away,
        entropy=entropy(4),
    )
    first = result.handoffs[0]
    found = max(first.kappa, first.offset)
    assert found == pytest.approx(0.3 / noise, rel=0.06)
    assert first.kappa == (found if kappa else 0.0)
    assert first.offset == (found if offset else 0.0)
    assert max(result.probe.values()) <= 0.3
    assert noise_search.TRIALS <= len(trials) <= noise_search.TRIALS + 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h", "s"]


@pytest.mark.parametrize("fits_in_trials", [True, False])
def test_nothing_is_written_if_no_noise_fits(tiny_pair, tmp_path, fits_in_trials):
    """Not in the trials, or in the trials but in no draw of the real copies."""
    pair = tiny_pair("llama", num_hidden_layers=1)

    def probe(model, copies):
        return {"model": 1.0, "copy-1": 1.0 if fits_in_trials and len(copies) == 1 else 2.0}

    with pytest.raises(GateError) as refused:
        noise_search.perturb_within_budget(
            Located(pair.model, None),
            Located(pair.base, None),
            Target(tmp_path / "h", tmp_path / "s", new_lineage=True),
            PerturbSettings(copies=2, check="none", reparam="none"),
            noise_search.Search(True, False, 0.5),
            probe,
        )
    said = "a copy of this draw loses 1 nats" if fits_in_trials else "0.001, already loses 1 nats"
    assert said in refused.value.message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("searched", "settings", "hint"),
    [
        ((True, False), {"copies": 1}, "--budget: --kappa auto takes the largest noise that fits"),
        ((True, True), {"copies": 2}, "--budget: --kappa auto and --offset auto take the largest"),
        (
            (True, False),
            {"copies": 2},
            "give a larger --offset, fewer --copies, or --split; nothing",
        ),
    ],
)
def test_a_search_that_tells_too_much_names_what_helps(
    tiny_pair, tmp_path, searched, settings, hint
):
    """The noise is the largest that fits the budget: a larger κ is no remedy, a larger B is."""
    pair = tiny_pair("llama", num_hidden_layers=1)
    with pytest.raises(GateError) as refused:
        noise_search.perturb_within_budget(
            Located(pair.model, None),
            Located(pair.base, None),
            Target(tmp_path / "h", tmp_path / "s", new_lineage=True),
            PerturbSettings(check="none", reparam="none", max_exposure=0.2, **settings),
            noise_search.Search(*searched, 0.1),
            away,
        )
    assert refused.value.message.startswith("--max-exposure 0.2: with this handoff ")
    assert hint in refused.value.hint
    assert refused.value.hint.endswith("nothing was written") and not list(tmp_path.iterdir())


def test_what_the_lineage_forbids_is_refused_before_the_trials(mpu, perturb, probe, tmp_path):
    """A second lineage, a foreign model and another base: no trial is made for them."""
    assert perturb("h1", "-m", 1).code == 0
    model = tmp_path / "elsewhere"
    auto = ("-m", 1, "--kappa", "auto", "--budget", 0.1, "--probe", probe, "--handoff", model)
    told = []
    for base, given in (("base", "s2"), ("model", "s")):
        pair = perturb.pair
        words = ("--base", getattr(pair, base), "--secret", tmp_path / given, *auto)
        done = mpu("perturb", pair.model, *words)
        told.append((done.code, "search" in done.err, model.exists()))
        said = "is in the lineage of" if base == "base" else "--base: another base (digest "
        assert said in done.err, done.err
    done = mpu("perturb", perturb.pair.base, "--secret", tmp_path / "s", *auto)
    assert done.code == 1 and "is not in the lineage of" in done.err
    assert told == [(1, False, False), (3, False, False)]


@pytest.mark.slow
def test_auto_measures_the_loss_on_the_rows(mpu, tmp_path):
    """On the demo's model: the copy loses less than the budget, three times the noise more."""
    rows = (assets() / "forget.jsonl").read_text().splitlines(keepends=True)[:6]
    (tmp_path / "rows.jsonl").write_text("".join(rows))

    def perturb(name, *options):
        given = ("--base", assets() / "base", "--handoff", tmp_path / f"h-{name}", "-m", 1)
        given += ("--new-lineage", tmp_path / name, "--probe", tmp_path / "rows.jsonl")
        return mpu("perturb", assets() / "model", *given, "--check", "none", "--json", *options)

    told = perturb("s", "--kappa", "auto", "--budget", 0.02).json
    assert told["probe"]["copy-1"] - told["probe"]["model"] <= 0.02
    assert told["trials"][0] == {
        "kappa": 0.1,
        "offset": None,
        "lost": pytest.approx(0.01, abs=0.02),
    }
    fits = max(trial["kappa"] for trial in told["trials"] if trial["lost"] <= 0.02)
    assert 0.8 * fits < told["kappa"] <= fits  # the real copies' noise is another draw
    worse = perturb("s2", "--kappa", 3 * told["kappa"]).json["probe"]
    assert worse["copy-1"] - worse["model"] > 0.02


def test_auto_keeps_a_frozen_offset_and_tells_its_trials(perturb, probe):
    """In a later round --offset auto is the lineage's own, and text shows each trial."""
    assert perturb("h1", "-m", 1, "--kappa", 0, "--offset", 0.05).code == 0
    done = perturb(
        "h2", "-m", 1, "--kappa", "auto", "--offset", "auto", "--budget", 0.05, "--probe", probe
    )
    assert done.code == 0
    assert "worst copy loses, nats per token" in done.out
    assert "offset = 0.05 (more noise is taken to lose more" in done.out


def test_auto_refuses_what_it_cannot_do(perturb, probe):
    """Missing or meaningless options; --dry-run says how many trials there will be."""
    for options, said in (
        (("--kappa", "auto"), "--kappa auto needs --budget and --probe"),
        (("--offset", "auto", "--budget", 1), "--offset auto needs --budget and --probe"),
        (("--budget", 1, "--probe", probe), "--budget has no effect without --kappa auto"),
        (("--kappa", "auto", "--budget", 0, "--probe", probe), "--budget 0: expected"),
        (("--kappa", "much"), "--kappa much: expected a number or auto"),
    ):
        done = perturb("h", *options)
        assert done.code == 2
        assert said in done.err
    options = ("-m", 1, "--kappa", "auto", "--probe", probe)
    told = perturb("h", *options, "--budget", 1e-9, "--dry-run", "--json").json
    assert told["trials"] == noise_search.TRIALS


def test_the_search_takes_at_most_eight_trials():
    """For each of 256 answers."""
    for answer in range(-1, 255):
        asked = []

        def fits(index, asked=asked, answer=answer):
            asked.append(index)
            return index <= answer

        assert noise_search._largest(fits) == (None if answer < 0 else answer)
        assert len(asked) <= noise_search.TRIALS
