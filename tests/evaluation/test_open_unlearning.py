"""Records in open-unlearning's layout.

Written as its evaluator does, read back with the same results.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_rows import questions, rows, settings

from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.evaluate import evaluate
from mpu_cli.evaluation.records.read import read_record
from mpu_cli.evaluation.records.record import Record
from mpu_cli.evaluation.records.write import write_record
from mpu_cli.evaluation.summarise import means

ROLES = {
    "forget": "forget",
    "retain": "retain",
    "holdout": "holdout",
    "real_authors": "utility",
    "world_facts": "utility",
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """TOFU's sets and a holdout set."""
    root = tmp_path_factory.mktemp("rows")
    return [
        questions(root, name, role, rows(8, seed, choice=role == "utility"))
        for seed, (name, role) in enumerate(ROLES.items())
    ]


@pytest.fixture(scope="module")
def retained(tiny_pair, sets) -> Record:
    """Of the model that never saw the forget set."""
    return evaluate(tiny_pair("llama").base, sets, settings()).record


@pytest.fixture
def theirs(retained, tmp_path) -> Path:
    """The same in open-unlearning's layout."""
    write_record(tmp_path / "theirs", retained, "open-unlearning", texts=False)
    return tmp_path / "theirs"


def test_as_retain_record_it_gives_the_same(retained, theirs, sets, tiny_pair):
    """Forget quality, its distance and privacy leakage, from our record and from theirs.

    The directory or its file.
    """
    values = []
    for record in (retained, read_record(theirs), read_record(theirs / "TOFU_EVAL.json")):
        model = evaluate(
            tiny_pair("llama").model, sets, settings(generate=False), retain_record=record
        ).record.values["model"]
        values.append(
            [
                model[name]["value"]
                for name in ("forget_quality", "forget_distance", "privacy_leakage")
            ]
        )
    assert values[0] == values[1] == values[2]
    assert values[0][1] > 0


def test_every_mean_comes_back(retained, theirs):
    """What their layout holds has the same means, model utility of multiple choice included."""
    mine, read = means(retained), means(read_record(theirs))
    for key, value in read.items():
        assert value == pytest.approx(mine[key], rel=1e-9), key
    for name in (
        "answer_probability",
        "rouge_recall",
        "truth_ratio",
        "truth_probability",
        "knowledge_memorization_stemmed",
    ):
        assert all(
            (one, name) in read for one in ("forget", "retain", "real_authors", "world_facts")
        )
    assert ("model", "model_utility") in read
    assert ("model", "membership_min_k_plus_plus") in read


def test_it_is_as_their_evaluator_writes_it(retained, theirs):
    """Their names, prefixes and keys; the summary is the means."""
    content = json.loads((theirs / "TOFU_EVAL.json").read_text())
    summary = json.loads((theirs / "TOFU_SUMMARY.json").read_text())
    for name in (
        "forget_Q_A_Prob",
        "forget_Q_A_ROUGE",
        "forget_truth_ratio",
        "retain_Q_A_Prob",
        "retain_Truth_Ratio",
        "ra_Q_A_Prob_normalised",
        "wf_Q_A_Prob_normalised",
        "ra_Truth_Ratio",
        "wf_Q_A_ROUGE",
        "exact_memorization",
        "extraction_strength",
        "mia_min_k",
        "mia_loss",
        "model_utility",
    ):
        assert name in content, name
        assert summary[name] == content[name]["agg_value"], name
    assert "forget_Q_A_Prob_normalised" not in content
    prob = content["forget_Q_A_Prob"]["value_by_index"]["3"]
    assert prob["prob"] == pytest.approx(np.exp(-prob["avg_loss"]))
    assert set(content["mia_min_k"]) == {"forget", "holdout", "auc", "agg_value"}
    assert content["mia_min_k"]["auc"] == summary["mia_min_k"]
    ratios = [row["score"] for row in content["forget_truth_ratio"]["value_by_index"].values()]
    assert summary["forget_truth_ratio"] == pytest.approx(
        np.mean(np.minimum(ratios, 1 / np.array(ratios)))
    )
    assert "generation" not in (theirs / "TOFU_EVAL.json").read_text()


def test_muses_sets_have_muses_names(tiny_pair, tmp_path):
    """Knowledge, verbatim and retained questions under open-unlearning's names.

    They come back with the same means.

    A retain set that is asked by the model's own template is no KnowMem, and not written as one.
    """
    sets = [
        questions(
            tmp_path,
            "forget",
            "forget",
            [{"text": "w1 w2 w3 w4 w5 w6"}, {"text": "w7 w8 w9 w1 w2"}],
        )
    ]
    sets += [
        questions(tmp_path, name, name, rows(5, seed))
        for seed, name in enumerate(("knowledge", "verbatim", "retain"))
    ]
    sets.append(questions(tmp_path, "retain_knowledge", "knowledge", rows(5, 3)))
    record = evaluate(tiny_pair("llama").model, sets, settings()).record
    write_record(tmp_path / "theirs", record, "open-unlearning", texts=True)
    assert sorted(path.name for path in (tmp_path / "theirs").iterdir()) == [
        ".mpu-files",
        "MUSE_EVAL.json",
        "MUSE_SUMMARY.json",
    ]
    content = json.loads((tmp_path / "theirs" / "MUSE_EVAL.json").read_text())
    names = {
        "knowledge": "forget_knowmem_ROUGE",
        "verbatim": "forget_verbmem_ROUGE",
        "retain_knowledge": "retain_knowmem_ROUGE",
    }
    read = means(read_record(tmp_path / "theirs"))
    for name, theirs in names.items():
        metric = (
            "verbatim_memorization_stemmed"
            if name == "verbatim"
            else "knowledge_memorization_stemmed"
        )
        assert set(content[theirs]["value_by_index"]["0"]) == {"rougeL_f1", "generation"}
        assert (
            content[theirs]["agg_value"]
            == record.values[name][metric]["value"]
            == pytest.approx(read[name, metric])
        )
    assert "extraction_strength" in content
    assert not [
        name for name in content if name.startswith(("knowledge", "verbatim", "retain_knowledge"))
    ]
    assert read_record(tmp_path / "theirs").sets["retain_knowledge"].role == "knowledge"


def test_texts_are_there_only_when_asked_for(retained, tmp_path):
    """--texts adds what was written beside ROUGE, where their logs have it."""
    write_record(tmp_path / "texts", retained, "open-unlearning", texts=True)
    content = json.loads((tmp_path / "texts" / "TOFU_EVAL.json").read_text())
    assert (
        content["forget_Q_A_ROUGE"]["value_by_index"]["0"]["generation"]
        == retained.written["forget", 0]
    )


@pytest.mark.filterwarnings("error")
def test_their_own_file_is_read(tmp_path):
    """Only what it has; rows in the order of their numbers, not of their text.

    Null is a row without a number.
    """
    path = tmp_path / "TOFU_EVAL.json"
    rows_of = {str(i): {"score": i / 10} for i in (10, 2, 1, 0, 9)}
    probabilities = {
        "agg_value": 0.2,
        "value_by_index": {str(i): {"prob": 0.1 * i, "avg_loss": 1} for i in (0, 1, 2, 9, 10)},
    }
    path.write_text(
        json.dumps(
            {
                "forget_truth_ratio": {"agg_value": 0.1, "value_by_index": rows_of},
                "forget_Q_A_Prob": probabilities,
            }
        )
    )
    found = read_record(path)
    assert found.columns["forget", "ratio"].tolist() == [0.0, 0.1, 0.2, 0.9, 1.0]
    assert found.columns["forget", "truth_ratio"].tolist() == [0.0, 0.1, 0.2, 0.9, 1.0]
    assert found.sets["forget"].rows == 5
    assert found.sets["forget"].digest is None
    probabilities["value_by_index"]["1"]["prob"] = None
    path.write_text(json.dumps({"forget_Q_A_Prob": probabilities}))
    assert np.isnan(read_record(path).columns["forget", "answer_probability"]).tolist() == [
        False,
        True,
        False,
        False,
        False,
    ]


def test_a_row_without_a_number_leaves_forget_quality_out(theirs, sets, tiny_pair):
    """Null, NaN or a number too large in their file.

    The reason is said, the result is not NaN.
    """
    content = json.loads((theirs / "TOFU_EVAL.json").read_text())
    for bad in (None, float("nan"), float("inf")):
        content["forget_truth_ratio"]["value_by_index"]["3"]["score"] = bad
        (theirs / "TOFU_EVAL.json").write_text(json.dumps(content))
        done = evaluate(
            tiny_pair("llama").model,
            sets,
            settings(generate=False),
            retain_record=read_record(theirs),
        ).record
        assert "forget_quality" not in done.values["model"]
        assert (
            done.left_out["", "forget_quality"] == "the retain record: forget: rows without ratio"
        )
        assert "privacy_leakage" in done.values["model"]


def row(content, name="forget_truth_ratio"):
    """The rows of one of their metrics."""
    return content[name]["value_by_index"]


BROKEN = {
    "not JSON": (lambda content: None, "cannot be read as JSON"),
    "a list": (lambda content: [content], "not a record of open-unlearning's"),
    "empty": (lambda content: {}, "not a record of open-unlearning's"),
    "its summary": (
        lambda content: {name: one["agg_value"] for name, one in content.items()},
        "has none of open-unlearning's metrics",
    ),
    "a text": (
        lambda content: row(content).update({"3": {"score": "a lot"}}) or content,
        "forget ratio",
    ),
    "a row that is a number": (
        lambda content: row(content).update({"3": 5}) or content,
        "forget ratio",
    ),
    "a name that is no number": (
        lambda content: row(content).update({"three": {"score": 1}}) or content,
        "forget ratio",
    ),
    "beyond all floats": (
        lambda content: row(content).update({"3": {"score": 10**400}}) or content,
        "a number too large",
    ),
    "a row less": (lambda content: row(content).pop("3") and content, "7 forget rows"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name, theirs):
    """In one line."""
    change, message = BROKEN[name]
    changed = change(json.loads((theirs / "TOFU_EVAL.json").read_text()))
    (theirs / "TOFU_EVAL.json").write_text("{" if changed is None else json.dumps(changed))
    with pytest.raises(BadDataError, match=message) as caught:
        read_record(theirs)
    assert "\n" not in caught.value.message


def test_another_number_of_rows_is_refused(theirs, tiny_pair, tmp_path):
    """Their files have no digest: the number of rows must do."""
    question_set = questions(tmp_path, "forget", "forget", rows(7, 0))
    with pytest.raises(BadDataError, match="its forget set has 8 rows, the set given here has 7"):
        evaluate(
            tiny_pair("llama").model,
            [question_set],
            settings(generate=False),
            retain_record=read_record(theirs),
        )
