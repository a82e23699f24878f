"""`mpu perturb --upto`, from both parties' command lines: a handoff of the lower layers alone."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from mpu_cli.bundle import canonical
from mpu_cli.bundle.manifest import decode

RUN = ("--method", "RMU", "--optimizer", "adamw", "--learning-rate", "1e-3", "--max-steps", "3")


@pytest.fixture
def cut(own_round, mpu, tmp_path):
    """A cut handoff in a lineage that has a whole one, without noise; layer 0 of 2."""
    r, place = own_round, tmp_path / "cut"
    done = mpu(*perturb(r, place, "--kappa", "0", "-m", "1", "--upto", "0"))
    assert done.code == 0, done.err
    assert "--upto hides weights, not what the model knows" in done.err
    return place


def perturb(r, place, *options):
    """A perturb of the round's model in its lineage."""
    return (
        "perturb",
        r.model,
        "--base",
        r.base,
        "--secret",
        r.secret,
        "--handoff",
        place,
        *options,
    )


def rows(r):
    """The round's rows, as options."""
    return ("--forget", r.forget, "--retain", r.retain)


def test_a_whole_round(own_round, cut, mpu, tmp_path):
    """Unlearning, aggregation and what each command says; the other layers stay byte for byte."""
    r, update, out = own_round, tmp_path / "u", tmp_path / "next"
    assert mpu("verify", cut).code == 0
    shown = mpu("inspect", cut)
    assert "the lowest 1 of 2; constants stand in for model.norm.weight" in shown.out
    assert json.loads(mpu("inspect", cut, "--json").out)["cut"]["layers"] == 1
    done = mpu("unlearn", cut, *RUN, *rows(r), "--out", update)
    assert done.code == 0, done.err
    assert "States after layer 0 moved by" in done.out and "mpu eval" in done.out
    assert "a cut handoff: layer 0 of 2" in done.err.replace("layers 0 to 0", "layer 0")
    changed = load_file(update / "copy-1" / "delta.safetensors")
    assert changed and all(name.startswith("model.layers.0.") for name in changed)
    made = mpu("aggregate", update, "--secret", r.secret, "--model", r.model, "--out", out)
    assert made.code == 0, made.err
    before, after = (load_file(path / "model.safetensors") for path in (r.model, out))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(changed)


def test_what_the_owner_is_told(own_round, cut, mpu):
    """The record keeps the layers, and a whole and a cut handoff are told apart in the secret."""
    listed = json.loads(mpu("inspect", own_round.secret, "--json").out)["handoffs"]
    assert [one["layers"] for one in listed] == [None, 1]
    assert 0 < listed[1]["withheld"] < 1 and listed[0]["withheld"] == 0
    assert "1 of 2 layers" in mpu("inspect", own_round.secret).out


@pytest.mark.parametrize("scope", ["layers", "all"])
def test_the_share_that_is_not_sent(own_round, mpu, tmp_path, scope):
    """It says of what it is a share: embeddings, sent exactly, count only if they get noise."""
    r, place = own_round, tmp_path / "cut"
    options = ["--kappa", "0", "-m", "1", "--upto", "0", "--scope", scope]
    command = [*perturb(r, place, *options)]
    command[command.index("--secret")] = "--new-lineage"
    command[command.index(r.secret)] = tmp_path / "other"
    done = mpu(*command)
    assert done.code == 0, done.err
    theta, base = (load_file(path / "model.safetensors") for path in (r.model, r.base))
    squares = {n: float((theta[n].double() - base[n].double()).square().sum()) for n in theta}
    counted = [n for n in squares if ".layers." in n or scope == "all"]
    unsent = [
        n for n in counted if ".layers.1." in n or n in ("model.norm.weight", "lm_head.weight")
    ]
    share = sum(squares[n] for n in unsent) / sum(squares[n] for n in counted)
    unit = "the layers' ‖θ − base‖²" if scope == "layers" else "‖θ − base‖²"
    assert f"{share:.1%} of {unit} is not sent" in done.out


def test_only_methods_that_read_states(own_round, cut, mpu, tmp_path):
    """Others are refused before anything is loaded, and so is a layer that was not sent."""
    r, out = own_round, tmp_path / "u"
    done = mpu("unlearn", cut, "--method", "NPO", *rows(r), "--out", out)
    assert done.code == 2 and "choose --method LUNAR or RMU" in done.err
    done = mpu("unlearn", cut, "--method", "RMU", "--set", "layer=1", *rows(r), "--out", out)
    assert done.code == 2 and "give --set layer=0" in done.err and "layers up to 1" in done.err
    done = mpu("unlearn", cut, *RUN, *rows(r), "--stop-forget-below", "0.1", "--out", out)
    assert done.code == 2 and "no threshold can end the training" in done.err
    assert not out.exists()


def test_answers_cannot_be_measured(own_round, cut, mpu, tmp_path):
    """`eval` on the copy or on an update of it names the reason."""
    r = own_round
    assert mpu("unlearn", cut, *RUN, *rows(r), "--out", tmp_path / "u").code == 0
    for model in ((cut / "copy-1",), (tmp_path / "u", "--handoff", cut)):
        done = mpu("eval", *model, *rows(r))
        assert done.code == 2 and "1 of the model's 2 layers" in done.err, done.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--upto", "1"), "give 0, or leave --upto out"),
        (("--upto", "7"), "has 2 layers"),
        (("--upto", "-1"), "--upto"),
        (("--upto", "x"), "--upto"),
        (("--upto", "0", "--probe", "FORGET"), "--upto and --probe"),
    ],
)
def test_bad_layers(own_round, mpu, tmp_path, options, says):
    """Exit 2, and nothing is written."""
    options = [own_round.forget if word == "FORGET" else word for word in options]
    done = mpu(*perturb(own_round, tmp_path / "h", *options))
    assert done.code == 2 and says in done.err, done.err
    assert not (tmp_path / "h").exists()


def test_a_base_of_another_depth(own_round, mpu, tmp_path):
    """The layers that the base lacks are named."""
    base = tmp_path / "base"
    shutil.copytree(own_round.base, base)
    config = json.loads((base / "config.json").read_text())
    config["num_hidden_layers"] = 1
    (base / "config.json").write_text(json.dumps(config))
    from safetensors.torch import save_file

    kept = {
        name: tensor
        for name, tensor in load_file(base / "model.safetensors").items()
        if ".layers.1." not in name
    }
    save_file(kept, base / "model.safetensors", {"format": "pt"})
    r = own_round
    done = mpu(
        *("perturb", r.model, "--base", base, "--new-lineage", tmp_path / "s"),
        *("--handoff", tmp_path / "h", "--upto", "0"),
    )
    assert done.code == 3 and "the base has no tensor model.layers.1." in done.err, done.err


def test_an_update_for_another_lineage(own_round, cut, mpu, tmp_path):
    """It answers no handoff of that lineage."""
    r = own_round
    assert mpu("unlearn", cut, *RUN, *rows(r), "--out", tmp_path / "u").code == 0
    new = ("--new-lineage", tmp_path / "other", "--handoff", tmp_path / "h")
    assert mpu("perturb", r.model, "--base", r.base, *new).code == 0
    model = ("--secret", tmp_path / "other", "--model", r.model, "--out", tmp_path / "next")
    done = mpu("aggregate", tmp_path / "u", *model)
    assert done.code == 1 and not (tmp_path / "next").exists(), done.err


def test_an_adapter_on_layers_that_were_not_sent(own_round, cut, mpu, tmp_path):
    """A client cannot reach them, also not with tensors that it makes up."""
    r, update = own_round, tmp_path / "u"
    lora = ("--lora-rank", "2")
    assert mpu("unlearn", cut, *RUN, *rows(r), *lora, "--out", update).code == 0
    path = update / "copy-1" / "adapter_model.safetensors"
    from safetensors.torch import save_file

    renamed = {
        name.replace(".layers.0.", ".layers.1."): value for name, value in load_file(path).items()
    }
    save_file(renamed, path, {"format": "pt"})
    config = update / "copy-1" / "adapter_config.json"
    config.write_text(config.read_text().replace("layers.0.", "layers.1."))
    for file in (path, config):
        listed_again(update, "copy-1", file)
    model = ("--secret", r.secret, "--model", r.model, "--out", tmp_path / "next")
    done = mpu("aggregate", update, *model)
    assert done.code in (1, 3) and "layers.1." in done.err, done.err
    assert not (tmp_path / "next").exists()


def listed_again(bundle, copy, path):
    """Make a manifest right again for a changed file."""
    import hashlib

    manifest = bundle / "mpu.yaml"
    content = canonical.parse(manifest.read_bytes(), manifest, ValueError)
    for one in content["copies"]:
        if one["name"] == copy:
            one["files"][path.name] = {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
            }
    write(manifest, content)


def write(manifest, content):
    """Write a manifest with its right digest."""
    content.pop("digest", None)
    content["digest"] = canonical.digest(content)
    manifest.write_bytes(canonical.dump(content))


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 2, "of": 4},
        {"layers": 0},
        {"layers": 2},
        {"of": 1},
        {"of": 10**9},
        {"stand_ins": ["model.layers.0.mlp.up_proj.weight"]},
        {"stand_ins": ["no.such.tensor"]},
        {"layers": True},
        {"more": 1},
    ],
)
def test_a_manifest_that_lies_about_the_cut(own_round, cut, mpu, tmp_path, change):
    """The client refuses it in one line."""
    manifest = cut / "mpu.yaml"
    content = canonical.parse(manifest.read_bytes(), manifest, ValueError)
    content["cut"] |= change
    write(manifest, content)
    done = mpu("unlearn", cut, *RUN, *rows(own_round), "--out", tmp_path / "u")
    assert done.code in (2, 3) and done.err.count("error:") == 1, done.err
    assert not (tmp_path / "u").exists()


def test_it_is_made_again_bit_for_bit(own_round, cut, mpu, tmp_path):
    """`--reissue` needs nothing but the model: stand-ins are constants."""
    id_ = decode((cut / "mpu.yaml").read_bytes(), cut).id
    again = tmp_path / "again"
    done = mpu(
        "perturb",
        own_round.model,
        "--secret",
        own_round.secret,
        "--handoff",
        again,
        "--reissue",
        id_,
    )
    assert done.code == 0, done.err
    for path in sorted(path for path in cut.rglob("*") if path.is_file()):
        assert path.read_bytes() == (again / path.relative_to(cut)).read_bytes()


def test_what_a_client_holds_does_not_say_what_the_model_says(own_round, cut):
    """Everything in the handoff, loaded: neither θ's logits nor, with the base above, θ's."""
    from transformers import AutoModelForCausalLM

    ids = torch.arange(2, 50)[None]

    def logits(place, change=None):
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float64).eval()
        if change:
            model.load_state_dict(change, strict=False)
        with torch.inference_mode():
            return model(input_ids=ids).logits

    theta, held = logits(own_round.model), logits(cut / "copy-1")
    sent = load_file(cut / "copy-1" / "model.safetensors")
    below = {name: value for name, value in sent.items() if name != "model.norm.weight"}
    stitched = logits(own_round.base, below)
    scale = float(theta.std())
    assert float((held - theta).abs().max()) > 0.1 * scale
    assert float((stitched - theta).abs().max()) > 1e-3 * scale
