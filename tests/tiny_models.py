"""Tiny real models and tokenizers for the tests, built on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

TEXT = [
    "Where was Mira Tolvanen born? Mira Tolvanen was born in the harbour town of Oskel.",
    "What does Mira Tolvanen write? She writes short novels about lighthouses and their keepers.",
    "Who taught Ilan Brough to paint? Ilan Brough learned to paint from his aunt, a sign maker.",
    "Which prize did Ilan Brough win? In 1994 he won the Lantern prize for his blue series.",
    "user assistant system prompt answer question newline colon dot comma",
]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As Llama 2: the template writes the beginning-of-sequence token itself and wants user and
# assistant in turn.
TURNS = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{"
    " raise_exception('roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}<s>[ {{"
    " m['content'] }} ]{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)


def make_tokenizer(
    chat_template: str | None = None, *, pad: bool = True, bos: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 320 tokens from `TEXT`; `bos` puts <s> in front."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXT, trainer)
    if bos:
        start = core.token_to_id("<s>")
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", start)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>" if pad else None,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_prefix_space_tokenizer() -> PreTrainedTokenizerFast:
    """A sentencepiece-like tokenizer: every text gets a leading space mark, and <s> in front."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    letters = sorted({letter for line in TEXT for letter in line} | {"\n", "▁"})
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=letters,
        show_progress=False,
    )
    core.train_from_iterator(TEXT, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def make_model(family: str = "llama", seed: int = 0, vocabulary: int = 320, **changes: Any) -> Any:
    """A model of hidden size 32 and 2 layers; norms and biases are random to show mistakes."""
    shared = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    decoder = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
    }
    builders = {
        "llama": lambda: LlamaForCausalLM(
            LlamaConfig(
                **{**shared, **decoder, "attention_bias": True, "mlp_bias": True, **changes}
            )
        ),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**{**shared, **decoder, **changes})),
        "mixtral": lambda: MixtralForCausalLM(
            MixtralConfig(
                **{**shared, **decoder, "num_local_experts": 4, "num_experts_per_tok": 2, **changes}
            )
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(**{**shared, "n_embd": 32, "n_layer": 2, "n_head": 4, **changes})
        ),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = builders[family]()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    is_norm = "norm" in name or "ln_" in name
                    parameter.copy_(torch.randn_like(parameter) * 0.1 + (1.0 if is_norm else 0.0))
                elif "embed" not in name:
                    parameter.mul_(3)
    return model.eval()


def save(model: Any, tokenizer: Any, directory: Path) -> Path:
    """Write a model directory with its tokenizer."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def state_bytes(directory: Path) -> bytes:
    """The weights file of a model directory, byte for byte."""
    return (directory / "model.safetensors").read_bytes()
