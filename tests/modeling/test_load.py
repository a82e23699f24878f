"""Loading a model for training: complete, float32, dropout off, the right tensors frozen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mpu_cli.errors import BadModelError
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer
from tiny_models import make_model, make_tokenizer, save


def saved(tmp_path: Path, family: str = "llama", **changes: Any) -> Path:
    """A model directory of that family."""
    return save(make_model(family, **changes), make_tokenizer(), tmp_path / "model")


def edit(directory: Path, **changes: Any) -> None:
    """Change config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def frozen_names(model: Any) -> set[str]:
    """Names of the parameters that do not train, tied ones under both names."""
    return {
        name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad
    }


def test_float32_whatever_config_says(tmp_path: Path) -> None:
    """config.json's dtype does not round the tensors that are on disk."""
    directory = saved(tmp_path)
    edit(directory, dtype="bfloat16")
    model = load_model(directory).model
    on_disk = load_file(directory / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, on_disk[name])


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_are_frozen_by_default(tmp_path: Path, tied: bool) -> None:
    """Without names, input and output embeddings are frozen, tied or not, and all else trains."""
    loaded = load_model(saved(tmp_path, tie_word_embeddings=tied))
    assert (
        frozen_names(loaded.model)
        == {"model.embed_tokens.weight", "lm_head.weight"}
        == set(loaded.frozen)
    )


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], set()),
        (["lm_head.weight"], {"lm_head.weight"}),
        (["model.norm.*", "*.1.*norm.weight"], {"model.norm.weight"}),
    ],
)
def test_frozen_by_name_or_pattern(tmp_path: Path, patterns: list[str], expected: set[str]) -> None:
    """Names and patterns are those on disk; an empty list freezes nothing."""
    model = load_model(saved(tmp_path), patterns).model
    layer_norms = {
        f"model.layers.1.{part}_layernorm.weight" for part in ("input", "post_attention")
    }
    assert frozen_names(model) == expected | (layer_norms if len(patterns) > 1 else set())


@pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight"])
def test_tied_tensor_is_frozen_under_either_name(tmp_path: Path, name: str) -> None:
    """Freezing a tied model's head, which is not on disk, freezes the embedding."""
    directory = saved(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(directory / "model.safetensors")
    assert frozen_names(load_model(directory, [name]).model) == {
        "lm_head.weight",
        "model.embed_tokens.weight",
    }


def test_fused_experts_are_frozen_by_their_names_on_disk(tmp_path: Path) -> None:
    """All fused experts of a layer can be frozen by their disk names, one alone cannot."""
    directory = saved(tmp_path, "mixtral")
    on_disk = set(load_file(directory / "model.safetensors"))
    assert any(".experts.2." in name for name in on_disk)
    fused = set(frozen_names(load_model(directory, ["model.layers.0.*.experts.*"]).model))
    assert fused and fused.isdisjoint(on_disk) and all(".layers.0." in name for name in fused)
    with pytest.raises(BadModelError, match="cannot be frozen alone"):
        load_model(directory, ["model.layers.0.*.experts.2.*"])


def test_unknown_frozen_name(tmp_path: Path) -> None:
    """A name that no tensor has is refused instead of leaving something unfrozen."""
    with pytest.raises(BadModelError, match=re.escape("'model.embed_token.weight'")):
        load_model(saved(tmp_path), ["lm_head.weight", "model.embed_token.weight"])


def test_dropout_is_off_and_the_source_config_keeps_it(tmp_path: Path) -> None:
    """Training mode computes what evaluation mode does; keep_dropout brings dropout back."""
    for family, changes in (
        ("llama", {"attention_dropout": 0.5}),
        ("gpt2", {"resid_pdrop": 0.5, "attn_pdrop": 0.5}),
    ):
        directory = save(make_model(family, **changes), make_tokenizer(), tmp_path / family)
        ids = torch.arange(5, 25).unsqueeze(0)
        loaded = load_model(directory)
        with torch.no_grad():
            calm, noisy = loaded.model.eval()(ids).logits, loaded.model.train()(ids).logits
            assert torch.equal(calm, noisy)
            with_dropout = load_model(directory, keep_dropout=True).model.train()
            assert not torch.equal(with_dropout(ids).logits, calm)
        assert all(getattr(loaded.source_config, name) == 0.5 for name in changes)


def test_router_noise_is_off(tmp_path: Path) -> None:
    """Mixtral's router jitter is random in training mode too, and is switched off with dropout."""
    model = load_model(saved(tmp_path, "mixtral", router_jitter_noise=0.3)).model.train()
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model(ids).logits)


def test_missing_and_misshapen_tensors(tmp_path: Path) -> None:
    """A tensor that from_pretrained would silently initialise is refused; so is a wrong shape."""
    directory = saved(tmp_path)
    tensors = load_file(directory / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    kept = {key: value for key, value in tensors.items() if key != name}
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadModelError, match=f"1 tensor.*missing.*{re.escape(name)}"):
        load_model(directory)
    save_file(
        {**kept, name: torch.zeros(3, 3)},
        directory / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(BadModelError, match=f"of another shape.*{re.escape(name)}"):
        load_model(directory)


def test_untied_head_that_is_absent(tmp_path: Path) -> None:
    """A head that config.json does not call tied must be on disk."""
    directory = saved(tmp_path, tie_word_embeddings=True)
    edit(directory, tie_word_embeddings=False)
    with pytest.raises(BadModelError, match=r"missing.*lm_head\.weight"):
        load_model(directory)


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization_config": {"quant_method": "gptq"}},
        {"model_type": "nothing"},
        {"hidden_size": "big"},
    ],
)
def test_unusable_config(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A quantised, unknown or nonsensical configuration is one line of bad input."""
    directory = saved(tmp_path)
    edit(directory, **changes)
    with pytest.raises(BadModelError) as caught:
        load_model(directory)
    assert "\n" not in caught.value.message


def test_tokenizer(tmp_path: Path) -> None:
    """A tokenizer is loaded from the same directory; none, or a broken one, is bad input."""
    directory = saved(tmp_path)
    assert load_tokenizer(directory)("Mira")["input_ids"] == make_tokenizer()("Mira")["input_ids"]
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(BadModelError, match="no usable tokenizer"):
        load_tokenizer(directory)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Loading shows no progress bar and no report, not even for a directory that lacks tensors."""
    directory = saved(tmp_path, tie_word_embeddings=True)
    capfd.readouterr()
    load_model(directory)
    edit(directory, tie_word_embeddings=False)
    with pytest.raises(BadModelError):
        load_model(directory)
    assert capfd.readouterr() == ("", "")
