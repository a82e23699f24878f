"""Print continuations of three prompts by a model and its copies, and how closely they agree.

    python continuations.py MODEL COPY... [--most X]

Every directory is loaded as anyone would load it, plain `from_pretrained`, one after the other.
Under the prompts a table, over the tokens of one page of a book:

    log p         the mean log-probability of the page's next token
    difference    the mean of |log p − MODEL's log p|, token by token
    equal next    the share of places where the most likely next token is MODEL's
    same text     how many of the prompts are continued word for word as by MODEL

With --most X it exits with 1 where a copy's difference is above X: rounding is about 1e-5, and what
a noise does shows here before it shows in the text.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

# Before transformers is imported: everything is on this disk, and a look-up at the Hub must fail
# rather than answer.
os.environ["HF_HUB_OFFLINE"] = "1"
if not sys.stderr.isatty():
    os.environ["TQDM_DISABLE"] = "1"  # live bars only on a terminal; also before the import

import torch
from torch import Tensor

PROMPTS = ("The capital of France is", "Romeo and Juliet was written by", "Water boils when it is")

# Lewis Carroll, Alice's Adventures in Wonderland (1865), the first page; in the public domain.
PAGE = (
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having"
    " nothing to do: once or twice she had peeped into the book her sister was reading, but it had"
    " no pictures or conversations in it, “and what is the use of a book,” thought Alice “without"
    " pictures or conversations?”\n\nSo she was considering in her own mind (as well as she could,"
    " for the hot day made her feel very sleepy and stupid), whether the pleasure of making a"
    " daisy-chain would be worth the trouble of getting up and picking the daisies, when suddenly a"
    " White Rabbit with pink eyes ran close by her."
)


class Answers(NamedTuple):
    texts: list[str]
    log_probs: Tensor
    next_tokens: Tensor


@torch.inference_mode()
def ask(directory: Path, length: int) -> Answers:
    """The greedy continuations, and the predictions over the page."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(directory))
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(directory), dtype=torch.float32
        ).eval()
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"{directory}: not a model directory ({str(error).splitlines()[0]})"
        ) from None
    texts = []
    for prompt in PROMPTS:
        batch = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        tokens = model.generate(**batch, max_new_tokens=length, do_sample=False)
        texts.append(
            tokenizer.decode(tokens[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        )
    ids = tokenizer(PAGE, return_tensors="pt")["input_ids"]
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    log_probs = torch.log_softmax(logits.double(), dim=-1).gather(1, ids[0, 1:, None])[:, 0]
    return Answers(texts, log_probs, logits.argmax(dim=-1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compare a model with its copies by what they write."
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("copies", type=Path, nargs="+", metavar="COPY")
    parser.add_argument(
        "--length", type=int, default=24, help="how many tokens each continuation has at most"
    )
    parser.add_argument(
        "--most", type=float, metavar="X", help="exit with 1 where a copy's difference is above X"
    )
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    model = ask(args.model, args.length)
    answers = {"model": model, **{path.name: ask(path, args.length) for path in args.copies}}
    width = max(map(len, answers))
    for i, prompt in enumerate(PROMPTS):
        print(f"\n{prompt} …")
        for name, answer in answers.items():
            print(f"  {name:<{width}}  {answer.texts[i].strip()!r}")
    print(f"\na page of {len(model.log_probs) + 1} tokens")
    print(f"  {'':<{width}}    log p  difference  equal next  same text")
    too_far = []
    for name, answer in answers.items():
        difference = (answer.log_probs - model.log_probs).abs().mean().item()
        equal = (answer.next_tokens == model.next_tokens).double().mean().item()
        same = sum(a == b for a, b in zip(answer.texts, model.texts, strict=True))
        row = (
            f"{answer.log_probs.mean().item():>7.4f}  {difference:>10.2g}  {equal:>9.1%}  {same:>5}"
            f" of {len(PROMPTS)}"
        )
        print(f"  {name:<{width}}  {row}", flush=True)
        # The other way round, so that a NaN is too far as well.
        if args.most is not None and not difference <= args.most:
            too_far.append(name)
    if too_far:
        raise SystemExit(
            f"{', '.join(too_far)}: predicts the page otherwise than the model, by more than"
            f" {args.most:g}"
        )


if __name__ == "__main__":
    main()
