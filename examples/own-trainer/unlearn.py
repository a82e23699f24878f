"""Gradient difference in plain PyTorch, on one copy.

    unlearn.py MODEL FORGET RETAIN OUT [--steps 24] [--rate 2e-4] [--lora 0]

Nothing of mpu is imported. What matters for the round: every copy gets the same rows in the same
order, dropout is off, embeddings and head stay as they are, and the optimizer is a smooth one
(noise cancels under Adafactor, hardly under AdamW).
"""

import argparse
import json
import random
from pathlib import Path

import torch
from transformers import Adafactor, AutoModelForCausalLM, AutoTokenizer


def read(path, tokenizer):
    """(tokens, labels) of every row; the question's tokens are not scored."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        question = tokenizer(row["question"] + "\n")["input_ids"]
        answer = tokenizer(row["answer"])["input_ids"] + [tokenizer.eos_token_id]
        rows.append((question + answer, [-100] * len(question) + answer))
    return rows


def loss(model, rows):
    """Mean loss per answer token of a few rows, padded on the right."""
    length = max(len(tokens) for tokens, _ in rows)
    tokens = torch.tensor([tokens + [0] * (length - len(tokens)) for tokens, _ in rows])
    labels = torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in rows])
    return model(input_ids=tokens, labels=labels).loss


def with_adapter(model, rank):
    """Add a LoRA adapter to what reads the residual stream; A is the same in every copy."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    targets = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]
    return get_peft_model(
        model,
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM"),
    )


def main():
    """Train one copy and save it as the program likes: a full model, or peft's adapter."""
    parser = argparse.ArgumentParser()
    for name in ("model", "forget", "retain", "out"):
        parser.add_argument(name)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument(
        "--lora", type=int, default=0, help="rank of an adapter; 0: the weights themselves"
    )
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32, attention_dropout=0.0
    )
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        module.requires_grad_(False)
    model = with_adapter(model, options.lora) if options.lora else model
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = Adafactor(trained, lr=options.rate, scale_parameter=False, relative_step=False)
    forget, retain = read(options.forget, tokenizer), read(options.retain, tokenizer)
    order = random.Random(0)
    model.train()
    for step in range(options.steps):
        forgotten, kept = loss(model, order.sample(forget, 8)), loss(model, order.sample(retain, 8))
        optimizer.zero_grad()
        (kept - forgotten).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if step % 10 == 0 or step == options.steps - 1:
            print(
                f"{options.model}  step {step + 1}  forget {forgotten.item():.3f}  retain"
                f" {kept.item():.3f}"
            )
    model.save_pretrained(options.out)


if __name__ == "__main__":
    main()
