"""What `mpu eval` costs beyond the model itself.

`python benchmarks/evaluation.py [--model DIR --rows FILE] [--json]`.

scoring     All metrics that need no writing, over every text of the rows (answers, paraphrases,
wrong answers), against the bare
            forward pass over the very same batches. Bar: at most 1.3 times its wall time.
generation  Greedy answers in batches with the key–value cache, against one question at a time (with
the cache, too) on the first
            --one-by-one questions. Bar: at least 5 times as many questions a second.

Each pair runs --repeats times in turn, in one process; medians of time. Tokenizing is inside the
scoring's time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import describe, machine
from one_round import say, table
from slopes import ASSETS

from mpu_cli.data.batches import collate, pad_id
from mpu_cli.data.vocabulary import embedding_rows
from mpu_cli.evaluation.generation import generate
from mpu_cli.evaluation.metrics import row_metrics
from mpu_cli.evaluation.model_under_test import ModelUnderTest
from mpu_cli.evaluation.questions import FORGET, QuestionSet, read_questions
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer

SCORING_BAR, GENERATION_BAR = 1.3, 5.0


@torch.inference_mode()
def bare(model: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    """The forward pass alone."""
    for rows in batches:
        model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], use_cache=False)


def seconds(work: Any) -> tuple[float, float]:
    """Wall and processor seconds.

    With one thread the second does not mind other jobs on the machine.
    """
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def scoring(tested: ModelUnderTest, repeats: int) -> dict[str, Any]:
    """Every metric without generation, against a forward pass over the same batches."""
    metrics = [metric for metric in row_metrics().values() if not metric.generates]
    variants = {variant for metric in metrics for variant in metric.variants}
    texts = [text.encoded for text in tested.encoder.texts(tested.sets, variants)]
    texts.sort(key=lambda text: len(text.input_ids))
    size = tested.settings.batch_size
    filler = pad_id(tested.tokenizer, embedding_rows(tested.model))
    batches = [collate(texts[at : at + size], filler) for at in range(0, len(texts), size)]
    tokens = sum(len(text.input_ids) for text in texts)
    bare(tested.model, batches[:2])
    times: dict[str, list[tuple[float, float]]] = {"bare": [], "mpu": []}
    for number in range(repeats):
        for name in ("bare", "mpu") if number % 2 == 0 else ("mpu", "bare"):
            work = (
                (lambda: bare(tested.model, batches))
                if name == "bare"
                else (lambda: tested.measure(metrics))
            )
            times[name].append(seconds(work))
            say(
                f"scoring, {name}: {times[name][-1][0]:.1f} s, {times[name][-1][1]:.1f} CPU-s for"
                f" {tokens} tokens"
            )
    wall, processor = (
        median(
            mine[i] / theirs[i] for mine, theirs in zip(times["mpu"], times["bare"], strict=True)
        )
        for i in (0, 1)
    )
    speed = tokens / median(each[0] for each in times["mpu"])
    return {
        "texts": len(texts),
        "tokens": tokens,
        "tokens_per_second": speed,
        "times": times,
        "ratio": wall,
        "cpu_ratio": processor,
    }


def generation(
    tested: ModelUnderTest, questions: int, one_by_one: int, repeats: int
) -> dict[str, Any]:
    """Questions a second, in batches and one at a time."""
    (each,) = tested.sets
    prompts = [tested.encoder.prompt(question) for question in each.questions[:questions]]
    settings, found = (
        tested.settings,
        {
            "batched": [],
            "one at a time": [],
        },
    )  # type: dict[str, list[float]]

    def write(some: list[tuple[int, ...]], size: int) -> float:
        return (
            len(some)
            / seconds(
                lambda: generate(
                    tested.model, tested.tokenizer, some, settings.max_new_tokens, size
                )
            )[0]
        )

    for _ in range(repeats):
        found["batched"].append(write(prompts, settings.batch_size))
        found["one at a time"].append(write(prompts[:one_by_one], 1))
        say(
            f"generation: {found['batched'][-1]:.2f} questions/s in batches,"
            f" {found['one at a time'][-1]:.2f} one at a time"
        )
    ratio = median(
        fast / slow for fast, slow in zip(found["batched"], found["one at a time"], strict=True)
    )
    return {
        "questions": len(prompts),
        "one_by_one": one_by_one,
        "questions_per_second": found,
        "ratio": ratio,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ASSETS / "model")
    parser.add_argument(
        "--rows",
        type=Path,
        default=ASSETS / "forget.jsonl",
        help="TOFU's forget10_perturbed.jsonl, for instance",
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="for both (default 32, as mpu eval's)"
    )
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--questions", type=int, default=128, help="to answer in batches")
    parser.add_argument("--one-by-one", type=int, default=8, help="to answer one at a time")
    parser.add_argument("--only", choices=("scoring", "generation"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="default: torch's own"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = machine()
    rows: QuestionSet = read_questions("forget", FORGET, options.rows)
    model, tokenizer = load_model(options.model).model, load_tokenizer(options.model)
    found: dict[str, Any] = {"machine": started, "threads": options.threads}
    if options.only != "generation":
        found["scoring"] = scoring(
            ModelUnderTest(model, tokenizer, [rows], EvalSettings(batch_size=options.batch_size)),
            options.repeats,
        )
    if options.only != "scoring":
        settings = EvalSettings(
            batch_size=options.batch_size, max_new_tokens=options.max_new_tokens
        )
        tested = ModelUnderTest(model, tokenizer, [rows], settings)
        found["generation"] = generation(
            tested, options.questions, options.one_by_one, options.repeats
        )
    if options.json:
        print(json.dumps(found))
        return
    print(describe(started))
    lines = [["", "ratio", "bar", ""]]
    if "scoring" in found:
        for name, what in (("ratio", "wall"), ("cpu_ratio", "processor")):
            ratio = found["scoring"][name]
            met = "met" if ratio <= SCORING_BAR else "MISSED"
            lines.append(
                [
                    f"all metrics without writing / bare forward pass, {what} time",
                    f"{ratio:.2f}",
                    f"≤ {SCORING_BAR}",
                    met,
                ]
            )
    if "generation" in found:
        ratio = found["generation"]["ratio"]
        met = "met" if ratio >= GENERATION_BAR else "MISSED"
        lines.append(
            [
                "questions a second, in batches / one at a time",
                f"{ratio:.1f}",
                f"≥ {GENERATION_BAR:g}",
                met,
            ]
        )
    print(table(lines))


if __name__ == "__main__":
    sys.exit(main())
