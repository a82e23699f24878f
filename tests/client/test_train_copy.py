"""Training one copy from directory to directory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from one_copy import train_copy
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mpu_cli.client import methods
from mpu_cli.client.recipe import Recipe
from mpu_cli.data.rows import Message, Row
from mpu_cli.errors import BadDataError, OutputError, UsageError
from mpu_cli.training import optimizers
from mpu_cli.training.settings import TrainingSettings
from tiny_models import CHATML, make_model, make_tokenizer, save, state_bytes

FORGET = [
    Row(
        "forget.jsonl:1",
        prompt="Where was Mira Tolvanen born?",
        answer="In the harbour town of Oskel.",
    ),
    Row(
        "forget.jsonl:2",
        messages=(Message("user", "What does she write?"), Message("assistant", "Novels.")),
    ),
    Row("forget.jsonl:3", text="Mira Tolvanen writes about lighthouses."),
]
RETAIN = [
    Row("retain.jsonl:1", prompt="Who taught Ilan Brough?", answer="His aunt, a sign maker."),
    Row("retain.jsonl:2", prompt="Which prize did he win?", answer="The Lantern prize."),
]


# A text has no answer that an alternate could replace.
ANSWERED = [replace(row, alternate="I do not know.") for row in FORGET[:2]]


def forget_for(method: str) -> list[Row]:
    """Forget rows that the method can use."""
    return ANSWERED if {"alternate", "direction"} & methods.find(method).inputs else FORGET


def questions_for(method: str) -> list[Row] | None:
    """Unanswerable questions, if the method reads them."""
    return RETAIN if "direction" in methods.find(method).inputs else None


def recipe(method: str = "GradDiff", assignments: tuple[str, ...] = (), **settings: Any) -> Recipe:
    """A short recipe."""
    shared = {
        "epochs": 2,
        "learning_rate": 1e-3,
        "batch_size": 2,
        "device": "cpu",
        "seed": 3,
        **settings,
    }
    required = ("epsilon=1.0",) if method == "PDU" else ()
    values = methods.get(method).parse((*required, *assignments))
    return Recipe(
        method, tuple(sorted(values.items())), TrainingSettings(**shared), "0" * 64, "1" * 64
    )


# Every method once and every optimizer at least once; the whole matrix is in test_methods*.py.
DEALT = [
    (name, optimizers.names()[i % len(optimizers.names())])
    for i, name in enumerate(methods.names())
]


@pytest.mark.parametrize(("name", "optimizer"), DEALT)
def test_every_method(name: str, optimizer: str, model_directory: Path, tmp_path: Path) -> None:
    """The result has the source's tensors in float32; what the method trains has moved."""
    after = tmp_path / "after"
    rows = forget_for(name)
    rate = 0.1 if optimizer == "sgd" else 1e-3
    report = train_copy(
        model_directory,
        after,
        rows,
        RETAIN,
        recipe(name, optimizer=optimizer, learning_rate=rate),
        unanswerable=questions_for(name),
    )
    assert report.steps == 2 * -(-len(rows) // 2)
    before, trained = (
        load_file(model_directory / "model.safetensors"),
        load_file(after / "model.safetensors"),
    )
    assert {key: value.shape for key, value in trained.items()} == {
        key: value.shape for key, value in before.items()
    }
    assert all(
        value.dtype == torch.float32 and bool(value.isfinite().all()) for value in trained.values()
    )
    still = {key for key in before if torch.equal(before[key], trained[key])}
    if name == "RMU":
        assert {key for key in before if key.startswith("model.layers.0.")}.isdisjoint(still)
    elif name == "LUNAR":
        assert set(before) - still == {"model.layers.0.mlp.down_proj.weight"}
    else:
        assert still == {"model.embed_tokens.weight", "lm_head.weight"}


def test_lunar_reads_prompts(model_directory: Path, tmp_path: Path) -> None:
    """Plain texts and empty prompts are refused, by their places, before training."""
    for rows, bad in ((FORGET, FORGET[2]), ([Row("forget.jsonl:9", prompt="", answer="A.")],) * 2):
        bad = bad if isinstance(bad, Row) else bad[0]
        with pytest.raises(BadDataError, match=f"{bad.where}: has no prompt, and LUNAR") as caught:
            train_copy(
                model_directory,
                tmp_path / "after",
                rows,
                RETAIN,
                recipe("LUNAR"),
                unanswerable=RETAIN,
            )
        assert caught.value.exit_code == 3 and caught.value.hint
    assert not (tmp_path / "after").exists()


@pytest.mark.parametrize("name", ["GradAscent", "GradDiff", "NPO"])
def test_it_forgets(name: str, model_directory: Path, tmp_path: Path) -> None:
    """After a few epochs the forget rows are less probable than before."""
    from mpu_cli.data.templates import encode
    from mpu_cli.modeling.load import load_model
    from mpu_cli.modeling.logprobs import answer_nll

    after = tmp_path / "after"
    train_copy(model_directory, after, FORGET, RETAIN, recipe(name, epochs=5))
    encoded = [encode(row, make_tokenizer(), 512) for row in FORGET]
    before, later = (
        sum(nll for nll, _ in answer_nll(load_model(path).model, encoded, 3, 0))
        for path in (model_directory, after)
    )
    assert later > before + 1


def test_same_seed_same_bits(model_directory: Path, tmp_path: Path) -> None:
    """Two runs write the same bytes; another seed does not."""
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        train_copy(model_directory, tmp_path / name, FORGET, RETAIN, recipe("NPO", seed=seed))
    assert (
        state_bytes(tmp_path / "one")
        == state_bytes(tmp_path / "two")
        != state_bytes(tmp_path / "three")
    )


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"tie_word_embeddings": True, "attention_dropout": 0.25}),
        ("qwen2", {"rms_norm_eps": 1e-5}),
        ("mixtral", {}),
    ],
)
def test_configuration_and_names_are_the_sources(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Tied heads, dropout, sizes and experts' names are saved unchanged, and load again."""
    source = save(
        make_model(family, **changes), make_tokenizer(CHATML, pad=False), tmp_path / "source"
    )
    (source / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.3}')
    after = tmp_path / "after"
    train_copy(source, after, FORGET, RETAIN, recipe())
    assert json.loads((after / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )
    assert (after / "generation_config.json").read_bytes() == (
        source / "generation_config.json"
    ).read_bytes()
    assert set(load_file(after / "model.safetensors")) == set(
        load_file(source / "model.safetensors")
    )
    assert AutoModelForCausalLM.from_pretrained(after).dtype == torch.float32


def test_bfloat16_source_is_saved_as_float32(tmp_path: Path) -> None:
    """A bfloat16 copy is trained and saved in float32, and config.json says so."""
    source = save(make_model().to(torch.bfloat16), make_tokenizer(), tmp_path / "source")
    assert json.loads((source / "config.json").read_text())["dtype"] == "bfloat16"
    train_copy(source, tmp_path / "after", FORGET, RETAIN, recipe())
    assert json.loads((tmp_path / "after" / "config.json").read_text())["dtype"] == "float32"
    assert (
        load_file(tmp_path / "after" / "model.safetensors")["model.norm.weight"].dtype
        == torch.float32
    )


def test_frozen_names_are_passed_on(model_directory: Path, tmp_path: Path) -> None:
    """Only what is named does not move."""
    train_copy(
        model_directory, tmp_path / "after", FORGET, RETAIN, recipe(), frozen=["model.layers.*"]
    )
    before = load_file(model_directory / "model.safetensors")
    trained = load_file(tmp_path / "after" / "model.safetensors")
    moved = {key for key in before if not torch.equal(before[key], trained[key])}
    assert moved == {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}


def test_dropout_only_when_asked(tmp_path: Path) -> None:
    """A model's dropout changes the result only with keep_dropout."""
    calm = save(make_model(), make_tokenizer(), tmp_path / "calm")
    noisy = save(make_model(attention_dropout=0.5), make_tokenizer(), tmp_path / "noisy")
    for name, source, keep in (("a", calm, False), ("b", noisy, False), ("c", noisy, True)):
        train_copy(source, tmp_path / name, FORGET, RETAIN, recipe(keep_dropout=keep))
    assert state_bytes(tmp_path / "a") == state_bytes(tmp_path / "b") != state_bytes(tmp_path / "c")


def test_retain_rows_are_ignored_by_a_method_without_them(
    model_directory: Path, tmp_path: Path
) -> None:
    """GradAscent ignores a retain set, and GradDiff at alpha 0 gives the same bytes."""
    train_copy(model_directory, tmp_path / "a", FORGET, RETAIN, recipe("GradAscent"))
    train_copy(model_directory, tmp_path / "b", FORGET, None, recipe("GradAscent"))
    train_copy(model_directory, tmp_path / "c", FORGET, None, recipe("GradDiff", ("alpha=0",)))
    assert state_bytes(tmp_path / "a") == state_bytes(tmp_path / "b") == state_bytes(tmp_path / "c")


def test_refuses_before_it_works(model_directory: Path, tmp_path: Path) -> None:
    """A missing retain set and a row that does not fit are refused, and nothing is written."""
    after = tmp_path / "after"
    with pytest.raises(UsageError, match="NPO needs a retain set"):
        train_copy(tmp_path / "no such model", after, FORGET, None, recipe("NPO"))
    with pytest.raises(BadDataError, match=r"forget\.jsonl:1: no answer token is left"):
        train_copy(model_directory, after, FORGET, RETAIN, recipe(max_length=4))
    assert not after.exists()


def test_result_that_cannot_be_written(model_directory: Path, tmp_path: Path) -> None:
    """A target below a file is an output error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="after: Not a directory"):
        train_copy(
            model_directory, tmp_path / "file" / "after", FORGET, RETAIN, recipe(max_steps=1)
        )


def test_nothing_is_printed(model_directory: Path, tmp_path: Path) -> None:
    """Training writes nothing to stdout or stderr, and no file but its result."""
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from mpu_cli.client.recipe import Recipe
from one_copy import train_copy
from mpu_cli.data.rows import Row
from mpu_cli.training.settings import TrainingSettings

settings = TrainingSettings(epochs=1, batch_size=1, device="cpu")
recipe = Recipe("NPO", (("alpha", 0.0), ("beta", 0.1), ("gamma", 1.0)), settings, "0" * 64, None)
rows = [Row("f:1", prompt="Where was Mira born?", answer="In Oskel.")] * 3
train_copy(Path({str(model_directory)!r}), Path("after"), rows, None, recipe)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["after"]
