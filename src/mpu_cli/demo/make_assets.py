"""Make the model and the data of `mpu demo`: `python -m mpu_cli.demo.make_assets OUT`.

OUT gets a tiny Llama twice, `base/` (pre-trained on other people) and `model/` (fine-tuned on the
demo's people), and the rows: `forget.jsonl`, `retain.jsonl` and `holdout.jsonl` (people that no
model has seen). The rows are the same on every machine; the weights are the same only with the
same floating-point arithmetic.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# The order of merges with equal counts must not depend on threads.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mpu_cli.demo.fictitious import Person, QuestionRow, people, rows_of, to_jsonl

SEED = 20260223
PRETRAINING_PEOPLE, FORGET_PEOPLE, RETAIN_PEOPLE, HOLDOUT_PEOPLE = 400, 2, 18, 2
VOCABULARY = 1200
BATCH = 16
IGNORED = -100  # the label of tokens that carry no loss, as in transformers
PAD, END = "<|pad|>", "<|end|>"  # in this order tokens 0 and 1
PAD_ID = 0
ENOUGH = 0.9  # mean answer probability that fine-tuning must reach

Example = tuple[list[int], int]  # token ids of a row, and how many of them are the prompt


def groups() -> dict[str, tuple[Person, ...]]:
    """Return the people of each part: slices of one list, so no name is in two parts."""
    sizes = {
        "pretraining": PRETRAINING_PEOPLE,
        "forget": FORGET_PEOPLE,
        "retain": RETAIN_PEOPLE,
        "holdout": HOLDOUT_PEOPLE,
    }
    everybody = iter(people(SEED, sum(sizes.values())))
    return {part: tuple(next(everybody) for _ in range(size)) for part, size in sizes.items()}


def data_files() -> dict[str, str]:
    """Return file name and text of the demo's data."""
    return {
        f"{part}.jsonl": to_jsonl(rows_of(group))
        for part, group in groups().items()
        if part != "pretraining"
    }


def prompt_and_answer(row: QuestionRow, *, paraphrased: bool = False) -> tuple[str, str]:
    """Return prompt and answer as `data.templates` writes a pair without a chat template."""
    question = row.paraphrased_question if paraphrased else row.question
    answer = row.paraphrased_answer if paraphrased else row.answer
    return f"{question}\n", f"{answer}{END}"


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a byte-pair tokenizer whose alphabet is all bytes, so it can encode any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a randomly initialised Llama of about a million parameters."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=None, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model


def tokenize(tokenizer: PreTrainedTokenizerFast, pairs: Sequence[tuple[str, str]]) -> list[Example]:
    """Return the token ids of prompt and answer together, and the length of the prompt."""
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    answers = tokenizer([answer for _, answer in pairs])["input_ids"]
    return [(prompt + answer, len(prompt)) for prompt, answer in zip(prompts, answers, strict=True)]


def answer_losses(
    model: LlamaForCausalLM, batch: Sequence[Example], *, whole: bool = False
) -> torch.Tensor:
    """Return each row's loss per token, (B,) in nats, over the answer or over the whole row."""
    longest = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), longest), PAD_ID)  # (B, T)
    labels = torch.full((len(batch), longest), IGNORED)
    for i, (tokens, start) in enumerate(batch):
        first = 0 if whole else start
        ids[i, : len(tokens)] = torch.tensor(tokens)
        labels[i, first : len(tokens)] = torch.tensor(tokens[first:])
    # Attention is causal and padding is on the right, so no attention mask is needed.
    logits = model(input_ids=ids).logits[:, :-1]  # (B, T-1, V)
    targets = labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )
    return losses.sum(1) / (targets != IGNORED).sum(1)


@torch.no_grad()
def answer_probability(model: LlamaForCausalLM, examples: Sequence[Example]) -> float:
    """Return the mean over rows of exp(-loss per answer token)."""
    batches = [examples[i : i + 64] for i in range(0, len(examples), 64)]
    return torch.cat([answer_losses(model, batch).neg().exp() for batch in batches]).mean().item()


def train(
    model: LlamaForCausalLM,
    examples: Sequence[Example],
    *,
    epochs: int,
    learning_rate: float,
    whole: bool,
) -> None:
    """Train all weights with AdamW, a cosine schedule and a fixed order; print loss and seconds."""
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    steps = epochs * math.ceil(len(examples) / BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: 0.5 * (1 + math.cos(math.pi * t / steps))
    )
    started = time.perf_counter()
    for epoch in range(1, epochs + 1):
        total = 0.0
        order = torch.randperm(len(examples), generator=generator)
        for chosen in order.split(BATCH):  # type: ignore[no-untyped-call]
            loss = answer_losses(model, [examples[i] for i in chosen], whole=whole).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        seconds = time.perf_counter() - started
        print(
            f"  epoch {epoch:2}: loss {total / len(examples):.3f} nats per token, {seconds:.1f} s",
            flush=True,
        )


def print_task_vector(base: dict[str, torch.Tensor], model: LlamaForCausalLM) -> None:
    """Print RMS(model - base) / RMS(model) of each decoder layer."""
    for i, layer in enumerate(model.model.layers):
        squares = [
            (parameter - base[f"model.layers.{i}.{name}"]).square().sum()
            / sum(p.square().sum() for p in layer.parameters())
            for name, parameter in layer.named_parameters()
        ]
        print(
            f"  layer {i}: task vector {torch.stack(squares).sum().sqrt().item():.3f} of the"
            " weights"
        )


def save(directory: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a plain Hugging Face model directory."""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    for path in directory.iterdir():
        path.chmod(0o644)  # safetensors writes 0600
        print(f"  {directory.name}/{path.name}: {path.stat().st_size:,} bytes")


def main(out: Path) -> None:
    """Write all demo assets to `out` and print the measurements."""
    torch.set_num_threads(1)
    parts = {part: rows_of(group) for part, group in groups().items()}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in data_files().items():
        (out / name).write_text(text, encoding="utf-8", newline="\n")

    reading = [
        prompt_and_answer(row, paraphrased=flag)
        for row in parts["pretraining"]
        for flag in (False, True)
    ]
    tokenizer = train_tokenizer([prompt + answer for prompt, answer in reading])
    model = new_model(tokenizer)
    examples = {
        part: tokenize(tokenizer, [prompt_and_answer(row) for row in rows])
        for part, rows in parts.items()
    }
    lengths = [len(ids) for part in examples.values() for ids, _ in part]
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens in the vocabulary")
    print(f"row length: mean {sum(lengths) / len(lengths):.1f}, longest {max(lengths)} tokens")

    def report(name: str) -> dict[str, float]:
        known = {part: answer_probability(model, rows) for part, rows in examples.items()}
        print(
            f"{name}: mean answer probability "
            + ", ".join(f"{part} {p:.4f}" for part, p in known.items())
        )
        return known

    print("pre-training")
    train(model, tokenize(tokenizer, reading), epochs=2, learning_rate=3e-3, whole=True)
    report("base")
    save(out / "base", model, tokenizer)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    print("fine-tuning")
    train(
        model, examples["forget"] + examples["retain"], epochs=20, learning_rate=1e-3, whole=False
    )
    known = report("model")
    print_task_vector(base, model)
    if min(known["forget"], known["retain"]) < ENOUGH:
        sys.exit(f"the fine-tuned model learned too little: below {ENOUGH}")
    save(out / "model", model, tokenizer)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m mpu_cli.demo.make_assets OUT")
    main(Path(sys.argv[1]))
