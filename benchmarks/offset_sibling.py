"""A sibling: the model that an attacker fine-tunes from the same base on a third of θ's rows.

Shared by structured_offset.py, not a benchmark itself.
"""

from __future__ import annotations

import argparse
import math

import torch
from one_round import say

from mpu_cli.client.recipe import Recipe
from mpu_cli.client.training_rows import RowEncoder
from mpu_cli.data.batches import collate, pad_id
from mpu_cli.data.rows import read_rows
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.logprobs import token_mean_nll
from mpu_cli.training.settings import TrainingSettings


def sibling(options: argparse.Namespace) -> None:
    """Fine-tune the base on every third of the rows; AdamW, answers only."""
    if options.out.exists():
        return
    settings = TrainingSettings(max_length=options.max_length)
    recipe = Recipe.of_files("GradDiff", {}, settings, options.taught[0], options.taught[0])
    encoder = RowEncoder(options.base, recipe)
    rows = [row for path in options.taught for row in encoder.encoded(read_rows(path), path.stem)]
    rows, filler = rows[::3], pad_id(encoder.tokenizer, encoder.vocabulary)
    model = load_model(options.base, frozen=[]).model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.0)
    begun = options.out.with_suffix(".pt")
    first = 0
    if begun.exists():
        state = torch.load(begun, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epochs"]
    per_epoch = -(-len(rows) // options.batch_size)
    for epoch in range(first, options.epochs):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(100 + epoch))
        total = 0.0
        for step, chosen in enumerate(order.split(options.batch_size)):
            if options.cosine:
                done = (epoch * per_epoch + step) / (options.epochs * per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = options.rate * 0.5 * (1 + math.cos(math.pi * done))
            loss = token_mean_nll(model, collate([rows[i] for i in chosen.tolist()], filler))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item() * len(chosen)
        say(f"sibling: epoch {epoch + 1}, {len(rows)} rows, loss {total / len(rows):.3f}")
        if epoch + 1 == options.epochs:
            model.save_pretrained(options.out)
            encoder.tokenizer.save_pretrained(options.out)
            begun.unlink(missing_ok=True)
        elif options.one_epoch:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "epochs": epoch + 1}, begun)
            return
