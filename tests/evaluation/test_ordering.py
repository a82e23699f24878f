"""A model that remembers, one that never saw the rows, and one that was made to forget.

The metrics order them as they should.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mpu_cli.evaluation.evaluate import evaluate
from mpu_cli.evaluation.questions import read_questions
from mpu_cli.evaluation.records.record import Record
from mpu_cli.evaluation.relearned import with_steps
from mpu_cli.evaluation.settings import EvalSettings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def evaluated(demo, tmp_path_factory) -> dict[str, Record]:
    """Records of the three models on the demo's rows, with the base as the retain record."""
    root = tmp_path_factory.mktemp("ordering")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPU_DEBUG": ""}
    data = ["--forget", demo / "forget.jsonl", "--retain", demo / "retain.jsonl"]
    how = [
        "--method",
        "GradDiff",
        "--optimizer",
        "adafactor",
        "--epochs",
        "6",
        "--batch-size",
        "8",
        "--learning-rate",
        "1e-3",
    ]
    command = [
        sys.executable,
        "-m",
        "mpu_cli",
        "unlearn",
        demo / "model",
        *data,
        *how,
        "--out",
        root / "unlearned",
    ]
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    retain = root / "retain.jsonl"
    retain.write_text("".join((demo / "retain.jsonl").read_text().splitlines(keepends=True)[::9]))
    files = {"forget": demo / "forget.jsonl", "retain": retain, "holdout": demo / "holdout.jsonl"}
    sets = [read_questions(name, name, path) for name, path in files.items()]
    checks = ("quantization", "relearning")
    settings = EvalSettings(
        device="cpu", max_new_tokens=24, resamples=1000, robustness=checks, relearn_rates=(1e-3,)
    )
    base = evaluate(demo / "base", sets, settings).record
    before = evaluate(demo / "model", sets, settings, retain_record=base).record
    after = evaluate(root / "unlearned", sets, settings, retain_record=base, before=before).record
    base = evaluate(demo / "base", sets, settings, retain_record=base, before=before).record
    return {"before": with_steps(before, before), "base": base, "unlearned": after}


def value(record: Record, owner: str, metric: str) -> float:
    """A number of the summary."""
    return record.values[owner][metric]["value"]


@pytest.mark.parametrize(
    "metric", ["answer_probability", "exact_memorization", "rouge_recall", "extraction_strength"]
)
def test_what_is_remembered_goes_down(metric, evaluated):
    """Unlearning lowers the forget set far more than the retain set; intervals do not touch."""
    before, base, after = (evaluated[name] for name in ("before", "base", "unlearned"))
    assert value(before, "forget", metric) > 0.7 > value(after, "forget", metric)
    assert value(before, "forget", metric) > value(base, "forget", metric)
    assert before.values["forget"][metric]["low"] > after.values["forget"][metric]["high"]
    assert value(after, "retain", metric) - value(after, "forget", metric) > 0.2
    assert value(before, "retain", metric) == pytest.approx(
        value(before, "forget", metric), abs=0.1
    )


@pytest.mark.parametrize("attack", ["loss", "min_k", "min_k_plus_plus", "zlib"])
def test_membership_is_seen_before_and_not_in_the_base(attack, evaluated):
    """Nearly 1 in the model that remembers.

    The base, which saw neither set, cannot favour the forget rows.
    """
    areas = {
        name: value(record, "model", f"membership_{attack}") for name, record in evaluated.items()
    }
    assert areas["before"] > 0.95
    assert areas["base"] < 0.75
    assert areas["unlearned"] < areas["before"]


def test_forget_quality_and_privacy_leakage(evaluated):
    """The base equals itself.

    The model that remembers is told from it and leaks below 0; unlearning moves both towards it.
    """
    distance = {
        name: value(record, "model", "forget_distance") for name, record in evaluated.items()
    }
    quality = {name: value(record, "model", "forget_quality") for name, record in evaluated.items()}
    leak = {name: value(record, "model", "privacy_leakage") for name, record in evaluated.items()}
    assert quality["base"] == pytest.approx(1)
    assert distance["base"] <= 1 / 40
    assert quality["before"] < 1e-6
    assert quality["before"] < quality["unlearned"]
    assert distance["unlearned"] < distance["before"]
    assert leak["base"] == pytest.approx(0, abs=1e-3)
    assert leak["before"] < -80
    assert leak["unlearned"] > leak["before"] + 10


def test_utility_stays(evaluated):
    """Of the unlearned model it is closer to that before than to the base's."""
    utility = {name: value(record, "model", "model_utility") for name, record in evaluated.items()}
    assert utility["before"] > utility["base"]
    assert utility["unlearned"] > (utility["before"] + utility["base"]) / 2


def test_robustness_orders_them_too(evaluated):
    """8 bits change nothing.

    The model that remembers is back at step 0, the others are not, and learn.
    """
    for record in evaluated.values():
        eight, plain = (
            value(record, "forget", "answer_probability@8-bit"),
            value(record, "forget", "answer_probability"),
        )
        assert eight == pytest.approx(plain, abs=0.01)
    assert value(evaluated["before"], "forget", "relearning_steps") == 0
    for name in ("base", "unlearned"):
        record = evaluated[name]
        assert record.values["forget"].get("relearning_steps", {"value": 99.0})["value"] > 0
        start = value(record, "forget", "answer_probability@relearned-0")
        assert value(record, "forget", "answer_probability@relearned-20@1e-3") > start + 0.2
