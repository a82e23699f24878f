"""Fine-tunes a model on 400 TOFU rows, so that there is something to unlearn.

    python finetune.py BASE DATA OUT     DATA is TOFU's full.jsonl

A plain PyTorch loop, on purpose without mpu: this is the past of the model, before either party's
work begins. Four epochs, AdamW at a constant 1e-4, batches of 10, float32; the loss is on the
answer's tokens only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from build_model import staged  # sets HF_HUB_OFFLINE, so before transformers
from split_data import FINETUNE, FORGET, OTHERS, RETAIN, read_lines
from torch import Tensor
from torch.nn.functional import cross_entropy

MAX_LENGTH = 128
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class Example(NamedTuple):
    tokens: list[int]
    prompt_length: int


def encode(tokenizer: Any, line: str) -> Example:
    row = json.loads(line)
    chat = [{"role": "user", "content": row["question"]}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    # Apart, so that the border between question and answer is exact. The end-of-turn token is part
    # of the answer: the model must learn where to stop. (It is the padding token too, so it must
    # not be masked by its value.)
    prompt_tokens = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer_tokens = tokenizer(row["answer"] + tokenizer.eos_token, add_special_tokens=False)[
        "input_ids"
    ]
    return Example((prompt_tokens + answer_tokens)[:MAX_LENGTH], len(prompt_tokens))


def answer_losses(model: Any, examples: list[Example]) -> list[Tensor]:
    """For every example the negative log-likelihood of each token of its answer."""
    length = max(len(example.tokens) for example in examples)
    # Padding on the right of a causal model changes nothing to its left, so no attention mask is
    # needed and any token will do.
    ids = torch.tensor(
        [example.tokens + [0] * (length - len(example.tokens)) for example in examples]
    )
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    # The head only where a loss is taken: with 49,152 words it is a fifth of the model's work.
    states = [hidden[i, e.prompt_length - 1 : len(e.tokens) - 1] for i, e in enumerate(examples)]
    targets = torch.cat([torch.tensor(e.tokens[e.prompt_length :]) for e in examples])
    losses = cross_entropy(model.lm_head(torch.cat(states)), targets, reduction="none")
    return list(torch.split(losses, [len(state) for state in states]))


def answer_probability(model: Any, examples: list[Example], batch_size: int = 20) -> float:
    """TOFU's answer probability: mean over rows of P(answer | question) ** (1 / tokens)."""
    model.eval()
    with torch.inference_mode():
        batches = (examples[i : i + batch_size] for i in range(0, len(examples), batch_size))
        rows = [
            torch.exp(-losses.mean()) for batch in batches for losses in answer_losses(model, batch)
        ]
    return float(torch.stack(rows).mean())


def train(
    model: Any, examples: list[Example], epochs: int, learning_rate: float, batch_size: int
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    for epoch in range(1, epochs + 1):
        start, total, count = time.monotonic(), 0.0, 0
        model.train()
        order = torch.randperm(len(examples)).tolist()
        for i in range(0, len(order), batch_size):
            losses = torch.cat(
                answer_losses(model, [examples[j] for j in order[i : i + batch_size]])
            )
            torch.autograd.backward(losses.mean())
            optimizer.step()
            optimizer.zero_grad()
            total, count = total + losses.sum().item(), count + len(losses)
        seconds = time.monotonic() - start
        print(
            f"epoch {epoch}: answer loss {total / count:.4f} a token ({seconds:.0f} s)", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Fine-tune a model directory on TOFU's last 400 rows."
    )
    parser.add_argument("base", type=Path, metavar="BASE")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads", type=int, default=2, help="another number sums in another order"
    )
    args = parser.parse_args()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not args.base.is_dir():
        raise SystemExit(f"{args.base}: no such directory")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    start = time.monotonic()
    with staged(args.out) as partial:
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(str(args.base))
            model: Any = AutoModelForCausalLM.from_pretrained(str(args.base), dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise SystemExit(
                f"{args.base}: not a model directory ({str(error).splitlines()[0]})"
            ) from None
        rows = {
            i: encode(tokenizer, line)
            for i, line in zip(FINETUNE, read_lines(args.data, FINETUNE), strict=True)
        }
        cut = sum(len(example.tokens) == MAX_LENGTH for example in rows.values())
        print(f"{len(rows)} rows, {cut} of them at the limit of {MAX_LENGTH} tokens", flush=True)
        train(model, list(rows.values()), args.epochs, args.learning_rate, args.batch_size)
        for name, ids in (("forget", FORGET), ("retain", RETAIN), ("all others", OTHERS)):
            probability = answer_probability(model, [rows[i] for i in ids])
            print(f"answer probability, {name} ({len(ids)} rows): {probability:.4f}", flush=True)
        model.save_pretrained(partial)
        for name in (
            TOKENIZER_FILES
        ):  # copied: save_pretrained would note that it was loaded from a local path
            if (args.base / name).is_file():
                shutil.copyfile(args.base / name, partial / name)
    print(f"{args.out}: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
