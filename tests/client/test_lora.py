"""`mpu unlearn --lora-rank`: the same adapter on every copy, which the server undoes exactly."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from math import inf

import pytest
import torch
from adapter_cases import load
from one_copy import train_copy
from safetensors.torch import load_file

from mpu_cli.bundle.read import read_update
from mpu_cli.checkpoint.locate import Located
from mpu_cli.client import lora as lora_module
from mpu_cli.client import methods
from mpu_cli.client.estimate import estimate_unlearn
from mpu_cli.client.job import UnlearnJob
from mpu_cli.client.lora import attach, choose, inexact, matrices_of, moved, pair
from mpu_cli.client.recipe import Recipe
from mpu_cli.client.settings import Lora
from mpu_cli.client.unlearn import (
    finish_update,
    unlearn_handoff,
    unlearn_model,
    unlearn_one_copy,
)
from mpu_cli.data.rows import Row
from mpu_cli.errors import CheckFailedError, UsageError
from mpu_cli.server.aggregation.aggregate import aggregate
from mpu_cli.server.aggregation.settings import AggregateSettings
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.training.settings import TrainingSettings

FORGET = [
    Row(f"f:{i}", prompt=f"w{i} w{i + 1} ?", answer=f"w{i + 2} w{i + 3} w{i + 4} .")
    for i in range(0, 24, 3)
]
RETAIN = [
    Row(f"r:{i}", prompt=f"w{i} w{i + 2} ?", answer=f"w{i + 5} w{i + 1} .")
    for i in range(24, 48, 3)
]
SHARD = 10**9
ALL = ("q", "k", "v", "gate", "up", "o", "down")


def work(lora=None, method="GradDiff", **settings):
    """A short recipe of AdamW with some adapter."""
    shared = {
        "epochs": 100,
        "max_steps": 20,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "device": "cpu",
        "seed": 3,
    }
    shared |= {"round_number": 1, **settings}
    values = methods.get(method).parse(())
    recipe = Recipe(
        method,
        tuple(sorted(values.items())),
        TrainingSettings(**shared),
        "0" * 64,
        "1" * 64,
        lora=lora or Lora(8),
    )
    return UnlearnJob(FORGET, RETAIN, recipe, "float32", SHARD)


def publish(pair_, where, entropy, **settings):
    """A handoff and its secret."""
    chosen = PerturbSettings(**{"check": "none", "copies": 1, "kappa": 0.0, **settings})
    perturb(
        Located(pair_.model, None),
        Located(pair_.base, None),
        Target(where / "h", where / "s"),
        chosen,
        entropy=entropy,
    )


def take_back(pair_, where, update):
    """The aggregated model's tensors, without the gate that copies must agree on each tensor."""
    settings = AggregateSettings(max_agreement_drop=inf)
    aggregate([update], where / "s", Located(pair_.model, None), where / "next", settings)
    return load_file(where / "next" / "model.safetensors")


def quiet(*_):
    """No progress."""


def error_at_no_noise(pair_, where, entropy, lora, **settings):
    """‖aggregated − plain‖ / ‖plain − θ‖ of the same recipe, with two copies and no noise."""
    publish(pair_, where, entropy, copies=2)
    unlearn_handoff(where / "h", where / "u", work(lora, **settings), quiet)
    unlearn_model(pair_.model, where / "plain", work(lora, **settings), quiet)
    found = take_back(pair_, where, where / "u")
    plain, theta = (
        load_file(where / "plain/model.safetensors"),
        load_file(pair_.model / "model.safetensors"),
    )
    change = (
        sum(float((plain[name].double() - theta[name]).square().sum()) for name in theta) ** 0.5
    )
    assert change > 0.1
    return (
        sum(float((found[name].double() - plain[name]).square().sum()) for name in theta) ** 0.5
        / change
    )


@pytest.mark.parametrize("family", ["llama", "llama-biased", "qwen3"])
def test_without_noise_the_update_is_that_of_plain_lora(tiny_pair, tmp_path, entropy, family):
    """At κ = 0 with AdamW and default targets, the aggregated model is the one of plain LoRA."""
    assert error_at_no_noise(tiny_pair(family), tmp_path, entropy(3), Lora(8)) <= 5e-5


def test_fused_projections_are_exact_too(tmp_path, entropy):
    """GPT-2's adapters, on fused q, k and v stored (inputs, outputs), are undone exactly."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tiny_models import make_tokenizer

    torch.manual_seed(0)
    settings = {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_inner": 48,
        "vocab_size": 512,
        "n_positions": 64,
    }
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", **settings, bos_token_id=1, eos_token_id=1)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    assert [one.roles for one in choose(Lora(2), matrices_of(tmp_path / "model"))] == [
        ("q", "k", "v"),
        ("gate",),
    ] * 2
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "base")
    given = type("Given", (), {"model": tmp_path / "model", "base": tmp_path / "base"})
    assert error_at_no_noise(given, tmp_path, entropy(3), Lora(8)) <= 5e-5


def test_with_o_and_down_it_is_not(tiny_pair, tmp_path, entropy):
    """Negative control: with targets whose input is reparameterized, the update is off."""
    pair_ = tiny_pair("llama")
    assert error_at_no_noise(pair_, tmp_path, entropy(3), Lora(8, targets=ALL)) > 0.1
    assert "down_proj, o_proj" in inexact(choose(Lora(8, targets=ALL), matrices_of(pair_.model)))
    assert inexact(choose(Lora(8), matrices_of(pair_.model))) is None


def test_the_adapter_is_all_that_an_update_holds(tiny_pair, tmp_path, entropy):
    """One command, or copy by copy, gives the same bytes: peft's files and nothing else."""
    pair_ = tiny_pair("llama")
    publish(pair_, tmp_path, entropy(4), copies=2, kappa=0.1)
    warned: list[str] = []
    checked: list[tuple[int, int]] = []
    short = replace(
        work(Lora(4, targets=("q_proj", "down"))),
        warn=warned.append,
        checking=lambda done, total: checked.append((done, total)),
    )
    short = replace(
        short, recipe=replace(short.recipe, settings=replace(short.recipe.settings, max_steps=2))
    )
    update, _ = unlearn_handoff(tmp_path / "h", tmp_path / "u", short, quiet)
    assert len(warned) == 1 and "down_proj" in warned[0]
    files = [file for file in (tmp_path / "h").rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files if file.name != "mpu.yaml")
    assert max(checked) == (size, size)
    for number in (1, 2):
        unlearn_one_copy(tmp_path / "h", tmp_path / "v", number, short, quiet)
    finished = finish_update(tmp_path / "h", tmp_path / "v")
    assert finished.digest == update.digest == read_update(tmp_path / "v").digest
    assert [copy.payload for copy in update.copies] == ["lora", "lora"]
    assert sorted(file.name for file in (tmp_path / "v/copy-1").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert json.loads((tmp_path / "u/copy-1/adapter_config.json").read_text())["lora_alpha"] == 8


def test_copies_made_by_different_adapters_do_not_finish(tiny_pair, tmp_path, entropy):
    """Rank, α and targets belong to the recipe; a stray file beside the adapter is found."""
    pair_ = tiny_pair("llama")
    publish(pair_, tmp_path, entropy(4), copies=2, kappa=0.1)
    unlearn_one_copy(tmp_path / "h", tmp_path / "v", 1, work(Lora(4), max_steps=1), quiet)
    unlearn_one_copy(tmp_path / "h", tmp_path / "v", 2, work(Lora(2), max_steps=1), quiet)
    with pytest.raises(CheckFailedError, match="another recipe"):
        finish_update(tmp_path / "h", tmp_path / "v")
    (tmp_path / "v/copy-1/README.md").write_text("x")
    with pytest.raises(Exception, match="not part of an update"):
        finish_update(tmp_path / "h", tmp_path / "v")


def test_a_is_the_same_for_every_copy_and_random(tiny_pair):
    """It depends on the seed and the module's name, on nothing that was drawn before."""
    pair_ = tiny_pair("llama")
    matrices = matrices_of(pair_.model)
    drawn = []
    for before, seed in ((0, 3), (99, 3), (0, 4)):
        torch.manual_seed(before)
        model = load(pair_.model)
        targets = attach(model, Lora(4), matrices, (), seed)
        drawn.append({one.module: pair(model, one)[0].detach().clone() for one in targets})
        assert all(not bool(pair(model, one)[1].any()) for one in targets)
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not any(torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])
    first = "model.layers.0.self_attn.q_proj"
    assert not torch.equal(drawn[0][first], drawn[0][first.replace("layers.0", "layers.1")])
    assert float(drawn[0][first].abs().max()) <= 32**-0.5 and float(
        drawn[0][first].std()
    ) == pytest.approx(32**-0.5 / 3**0.5, rel=0.2)


def test_only_the_adapter_is_trained(tiny_pair):
    """Everything else is frozen, and before the first step the model computes what it computed."""
    pair_ = tiny_pair("llama")
    model, rows = load(pair_.model), torch.arange(24).reshape(2, 12)
    before = model(input_ids=rows).logits
    attach(model, Lora(4), matrices_of(pair_.model), (), 0)
    assert torch.equal(model(input_ids=rows).logits, before)
    trained = {
        name.rpartition(".lora_")[2] for name, one in model.named_parameters() if one.requires_grad
    }
    assert trained == {"A.default.weight", "B.default.weight"}


def test_gradient_checkpointing_really_trains(tiny_pair, tmp_path):
    """The same adapter, to rounding, with and without; every B has moved."""
    pair_ = tiny_pair("llama")
    results = []
    for number, on in enumerate((False, True)):
        settings = work(max_steps=5, gradient_checkpointing=on).recipe
        train_copy(pair_.model, tmp_path / str(number), FORGET, RETAIN, settings)
        results.append(load_file(tmp_path / str(number) / "adapter_model.safetensors"))
    assert all(bool(tensor.any()) for tensor in results[1].values())
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-6) for name in results[0])


def test_reentrant_checkpointing_trains_too(tiny_pair):
    """Reentrant checkpointing trains adapters although inputs have no gradient."""
    pair_ = tiny_pair("llama")
    model, rows = load(pair_.model), torch.arange(24).reshape(2, 12)
    targets = attach(model, Lora(4), matrices_of(pair_.model), (), 0)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model(input_ids=rows, labels=rows).loss.backward()
    assert all(bool(pair(model, one)[1].grad.any()) for one in targets)


def test_an_adapter_that_did_not_move_is_an_error(tiny_pair, tmp_path, monkeypatch):
    """An adapter without a gradient is an error, except in layers after all others (RMU)."""
    pair_ = tiny_pair("llama")
    model = load(pair_.model)
    targets = attach(model, Lora(4), matrices_of(pair_.model), (), 0)
    with pytest.raises(CheckFailedError, match="10 of 10 adapters did not move"):
        moved(model, targets)
    with torch.no_grad():
        for one in targets:
            if one.layer == 0:
                pair(model, one)[1].add_(1)
    assert {one.layer for one in moved(model, targets)} == {0}
    with torch.no_grad():
        pair(model, targets[0])[1].zero_()
    with pytest.raises(CheckFailedError, match=targets[0].module):
        moved(model, targets)

    real = lora_module.attach

    def cut_off(model, *rest):
        found = real(model, *rest)
        for one in found:
            pair(model, one)[1].register_hook(torch.zeros_like)
        return found

    monkeypatch.setattr(lora_module, "attach", cut_off)
    with pytest.raises(CheckFailedError, match="did not move"):
        train_copy(pair_.model, tmp_path / "after", FORGET, RETAIN, work(max_steps=2).recipe)
    assert not (tmp_path / "after").exists()


def test_rmu_adapts_the_layers_before_its_own(tiny_pair, tmp_path):
    """What its loss does not reach is not in the adapter."""
    train_copy(
        tiny_pair("llama").model,
        tmp_path / "after",
        FORGET,
        RETAIN,
        work(method="RMU", max_steps=2).recipe,
    )
    config = json.loads((tmp_path / "after/adapter_config.json").read_text())
    assert {name.split(".")[2] for name in config["target_modules"]} == {"0"}


def test_a_resumed_copy_ends_in_the_same_bits(tiny_pair, tmp_path):
    """A resumed run gives the bits of an uninterrupted one."""
    from mpu_cli.client.settings import CheckpointSettings
    from mpu_cli.client.work_directory import WorkDirectory

    pair_, recipe = tiny_pair("llama"), work(max_steps=6).recipe
    train_copy(pair_.model, tmp_path / "whole", FORGET, RETAIN, recipe)
    kept = WorkDirectory(tmp_path / "out", CheckpointSettings(steps=2))

    def stop(step, total, loss):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_copy(
            pair_.model,
            tmp_path / "a",
            FORGET,
            RETAIN,
            recipe,
            context={"on_step": stop, "store": kept.store("m", {"x": 1})},
        )
    seen = []
    store = kept.store("m", {"x": 1})
    train_copy(
        pair_.model,
        tmp_path / "a",
        FORGET,
        RETAIN,
        recipe,
        resume=True,
        context={"on_step": lambda step, *_: seen.append(step), "store": store},
    )
    assert seen[0] > 1
    files = [
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "a")
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0},
        {"rank": 513},
        {"rank": True},
        {"rank": 4, "alpha": 0.0},
        {"rank": 4, "alpha": float("nan")},
    ],
)
def test_options_outside_their_range_are_usage_errors(options):
    """They name the flag."""
    with pytest.raises(UsageError, match="--lora-"):
        Lora(**options)


def test_targets_that_are_not_there_are_named(tiny_pair, tmp_path):
    """With what there is; nothing is loaded or written."""
    matrices = matrices_of(tiny_pair("llama").model)
    with pytest.raises(UsageError, match="--lora-targets c_attn"):
        choose(Lora(4, targets=("c_attn",)), matrices)
    with pytest.raises(UsageError, match="no projection"):
        choose(Lora(4), matrices, ["model.layers.*"])
    assert {one.roles for one in choose(Lora(4, targets=("o_proj", "up")), matrices)} == {
        ("o",),
        ("up",),
    }
    with pytest.raises(UsageError, match="--lora-targets c_attn"):
        unlearn_model(
            tiny_pair("llama").model, tmp_path / "out", work(Lora(4, targets=("c_attn",))), quiet
        )
    assert not (tmp_path / "out").exists()


def test_experts_that_are_fused_in_memory_get_no_adapter(tmp_path):
    """Mixtral's attention alone by default; asked for, its experts are refused with the reason."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **settings)).save_pretrained(
        tmp_path / "m"
    )
    matrices = matrices_of(tmp_path / "m")
    assert len(choose(Lora(2), matrices)) == 3 + 8
    held = attach(load(tmp_path / "m"), Lora(2), matrices, (), 0)
    assert [one.roles for one in held] == [("k",), ("q",), ("v",)]
    needs = estimate_unlearn(tmp_path / "m", TrainingSettings(), "float32", lora=Lora(2))
    assert needs["trained_parameters"] == sum(2 * (one.inputs + one.outputs) for one in held)
    with pytest.raises(UsageError, match="fuses"):
        estimate_unlearn(
            tmp_path / "m", TrainingSettings(), "float32", lora=Lora(2, targets=("gate",))
        )
    with pytest.raises(UsageError, match="fuses"):
        attach(load(tmp_path / "m"), Lora(2, targets=("q", "gate")), matrices, (), 0)


@pytest.mark.parametrize(
    "name",
    [
        "deepseek-v2",
        "deepseek-v3",
        "qwen3-moe/partly-dense",
        "olmoe",
        "qwen2-moe",
        "granite-moe",
        "llama",
    ],
)
def test_what_is_counted_is_what_is_trained(built_tiny, name):
    """The estimate counts no adapter on dense and shared parts that peft takes for experts."""
    model = load(built_tiny(name))
    attach(model, Lora(2), matrices_of(built_tiny(name)), (), 0)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert (
        estimate_unlearn(built_tiny(name), TrainingSettings(), "float32", lora=Lora(2))[
            "trained_parameters"
        ]
        == trained
    )


def test_dense_parts_out_of_reach_are_told(built_tiny):
    """By name and number, beside the experts."""
    told = lora_module.out_of_reach(load(built_tiny("qwen3-moe/partly-dense")), Lora(2))
    assert "nor does gate_proj of 1 dense or shared parts" in told
    assert "gate of" not in told  # the router is no projection


def test_experts_out_of_reach_are_told_once(tiny_pair, tmp_path):
    """The warning gives name and number, and comes only if a target is an expert."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **settings)).save_pretrained(
        tmp_path / "m"
    )
    for file in tiny_pair("llama").model.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "m")
    told = []
    lacking = replace(work(max_steps=1), warn=told.append)
    unlearn_model(tmp_path / "m", tmp_path / "out", lacking, quiet)
    assert len(told) == 1
    assert "gate_up_proj of 4 experts in 2 layers" in told[0]
    assert "down" not in told[0]
    for source, lora in (
        (tmp_path / "m", Lora(8, targets=("q", "v"))),
        (tiny_pair("llama").model, Lora(8)),
    ):
        told.clear()
        unlearn_model(
            source,
            tmp_path / f"out-{source.name}",
            replace(work(lora, max_steps=1), warn=told.append),
            quiet,
        )
        assert not told


def test_noise_is_denoised_as_with_full_weights(tiny_pair, tmp_path, entropy):
    """Three copies at κ = .1 with Adafactor come nearer to plain LoRA than one copy does."""
    pair_, errors = tiny_pair("llama"), []
    unlearn_model(pair_.model, tmp_path / "plain", work(optimizer="adafactor"), quiet)
    plain, theta = (
        load_file(tmp_path / "plain/model.safetensors"),
        load_file(pair_.model / "model.safetensors"),
    )
    change = (
        sum(float((plain[name].double() - theta[name]).square().sum()) for name in theta) ** 0.5
    )
    for copies in (1, 3):
        where = tmp_path / str(copies)
        publish(pair_, where, entropy(8), copies=copies, kappa=0.1)
        unlearn_handoff(where / "h", where / "u", work(optimizer="adafactor"), quiet)
        found = take_back(pair_, where, where / "u")
        errors.append(
            sum(float((found[name].double() - plain[name]).square().sum()) for name in theta) ** 0.5
            / change
        )
    assert errors[1] < 0.6 * errors[0]
