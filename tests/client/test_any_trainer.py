"""`mpu diff` on what other programs saved: transformers' Trainer, peft, shards, bfloat16."""

import shutil

import pytest
import torch
from adapter_cases import RESIDUAL, load
from safetensors.torch import load_file
from torch.utils.data import Dataset

from mpu_cli.bundle.read import read_handoff
from mpu_cli.checkpoint.locate import Located
from mpu_cli.client.delta import DeltaFormat
from mpu_cli.client.diff import diff
from mpu_cli.server.aggregation.aggregate import aggregate
from mpu_cli.server.aggregation.settings import AggregateSettings
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PerturbSettings

SHARD = 10**9


class Rows(Dataset):
    """Random rows, the same in every process and for every copy."""

    def __len__(self):
        """Sixteen."""
        return 16

    def __getitem__(self, index):
        """One row."""
        tokens = torch.randint(0, 64, (12,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens}


def by_trainer(source, out, scratch, *, rank=0, **saving):
    """Ten steps of transformers' Trainer, embeddings frozen; saved by the model or by peft."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainingArguments

    model = load(source)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        module.requires_grad_(False)
    if rank:
        torch.manual_seed(0)
        model = get_peft_model(
            model, LoraConfig(r=rank, target_modules=list(RESIDUAL), task_type="CAUSAL_LM")
        )
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=10,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        seed=5,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows())
    trainer.train()
    if saving.pop("bfloat16", False):
        trainer.model.to(torch.bfloat16)
    trainer.model.save_pretrained(out, **saving)


def weights(directory):
    """All tensors, from one file or shards."""
    return {
        name: value
        for file in directory.glob("*.safetensors")
        for name, value in load_file(file).items()
    }


@pytest.mark.parametrize("rank", [0, 4])
def test_trainers_update_without_noise_is_that_of_plain_training(
    tiny_pair, tmp_path, entropy, rank
):
    """At κ = 0 with AdamW, the aggregated model is the one that Trainer makes of θ."""
    pair = tiny_pair("llama")
    settings = PerturbSettings(check="none", copies=2, kappa=0.0)
    perturb(
        Located(pair.model, None),
        Located(pair.base, None),
        Target(tmp_path / "h", tmp_path / "s"),
        settings,
        entropy=entropy(9),
    )
    saving = {} if rank else {"max_shard_size": "20KB"}
    for copy in read_handoff(tmp_path / "h").copies:
        by_trainer(
            tmp_path / "h" / copy.name,
            tmp_path / "t" / copy.name,
            tmp_path / "x",
            rank=rank,
            **saving,
        )
    if not rank:
        assert len(list((tmp_path / "t/copy-1").glob("model-*.safetensors"))) > 1
    diff(tmp_path / "h", tmp_path / "t", tmp_path / "u", DeltaFormat("float32", SHARD))
    aggregate(
        [tmp_path / "u"],
        tmp_path / "s",
        Located(pair.model, None),
        tmp_path / "next",
        AggregateSettings(),
    )
    by_trainer(pair.model, tmp_path / "plain", tmp_path / "x", rank=rank)
    if rank:
        from peft import PeftModel

        merged = PeftModel.from_pretrained(load(pair.model), tmp_path / "plain").merge_and_unload()
        shutil.rmtree(tmp_path / "plain")
        merged.save_pretrained(tmp_path / "plain")
    theta, plain, found = (
        weights(pair.model),
        weights(tmp_path / "plain"),
        weights(tmp_path / "next"),
    )
    change = (
        sum(float((plain[name].double() - theta[name]).square().sum()) for name in theta) ** 0.5
    )
    off = sum(float((plain[name].double() - found[name]).square().sum()) for name in theta) ** 0.5
    assert change > 0.05 and off <= 5e-5 * change


def test_a_model_saved_in_bfloat16_is_compared_with_the_rounded_copy(tiny_pair, tmp_path, entropy):
    """A bfloat16 model is compared with the copy rounded to bfloat16."""
    pair = tiny_pair("llama")
    settings = PerturbSettings(check="none", copies=1, kappa=0.1)
    perturb(
        Located(pair.model, None),
        Located(pair.base, None),
        Target(tmp_path / "h", tmp_path / "s"),
        settings,
        entropy=entropy(9),
    )
    load(tmp_path / "h/copy-1").to(torch.bfloat16).save_pretrained(tmp_path / "n/copy-1")
    by_trainer(tmp_path / "h/copy-1", tmp_path / "t/copy-1", tmp_path / "x", bfloat16=True)
    by_trainer(tmp_path / "h/copy-1", tmp_path / "f/copy-1", tmp_path / "x")
    for name in "ntf":
        diff(tmp_path / "h", tmp_path / name, tmp_path / f"u-{name}", DeltaFormat("float32", SHARD))
    none, found, exact = (weights(tmp_path / f"u-{name}/copy-1") for name in "ntf")
    published = weights(tmp_path / "h/copy-1")
    assert none == {} and set(found) == set(exact)
    for name in exact:
        assert bool(
            (
                (found[name] - exact[name]).abs()
                <= 2**-7 * (published[name].abs() + exact[name].abs())
            ).all()
        )
