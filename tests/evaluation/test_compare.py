"""Two records side by side: the same rows, the same weights, and what the rows can tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mpu_cli.errors import BadDataError, UsageError
from mpu_cli.evaluation.compare import compare, labels
from mpu_cli.evaluation.records.record import Record, SetInfo

N = 60


def record(
    columns: dict[str, dict[str, list[float] | np.ndarray]],
    roles: dict[str, str] | None = None,
    digest="d",
    **settings,
) -> Record:
    """A record of these rows, by set and metric."""
    roles = roles or {name: name for name in columns}
    sets = {
        name: SetInfo(roles[name], len(next(iter(one.values()))), digest and f"{digest}-{name}")
        for name, one in columns.items()
    }
    values = {
        (name, metric): np.asarray(column, float)
        for name, one in columns.items()
        for metric, column in one.items()
    }
    return Record({"name": "m"}, settings, sets, values)


def probabilities(shift=0.0, noise=0.0, n=N, seed=0) -> dict[str, np.ndarray]:
    """Answer probabilities of rows that differ much among themselves."""
    return {
        "answer_probability": (
            np.linspace(0.1, 0.7, n) + shift + noise * np.random.default_rng(seed).normal(size=n)
        )
    }


def only(comparison):
    """The one line of the one pair."""
    ((line,),) = [pair.lines for pair in comparison.pairs]
    return line


BEFORE = record({"forget": probabilities(0.25)})


@pytest.mark.parametrize(
    ("n", "margin", "verdict"),
    [(40, 0.05, "not enough data"), (60, 0.05, "equivalent"), (60, None, "not enough data")],
)
def test_equal_records_are_equivalent_if_there_are_rows_enough(n, margin, verdict):
    """60 equal rows show a margin of .05 and not 1 % of what changed.

    Up to 4.9 % of all rows could differ.
    """
    one = record({"forget": probabilities(n=n)})
    before = record({"forget": probabilities(0.25, n=n)})
    line = only(compare({"a": one, "b": one}, before=before, margin=margin))
    assert (line.owner, line.metric, line.difference, line.rows) == (
        "forget",
        "answer_probability",
        0,
        n,
    )
    assert line.verdict == verdict
    assert line.margin == pytest.approx(margin or 0.0025)
    assert line.rows_needed == (59 if margin else 1197)
    other = 1 - 0.025 ** (1 / n)
    assert (line.low, line.high) == pytest.approx((-other, other), abs=2e-4)


def test_a_margin_too_narrow_for_the_rows_is_told():
    """With the number of rows that it takes, once for each set; not where it could be shown."""
    one = record(
        {"forget": {**probabilities(), "truth_ratio": probabilities()["answer_probability"]}}
    )
    (note,) = compare({"a": one, "b": one, "c": one}, before=BEFORE).notes
    expected = (
        "forget: 60 rows cannot show a margin of ±0.0025 (answer_probability) or less, even if no"
        " row differs: 1197 rows could"
    )
    assert note == expected
    assert not compare({"a": one, "b": one}, margin=0.05).notes


def test_what_did_not_change_gives_no_margin():
    """1 % of nothing is not ±0.

    The margin is None and the verdict says so, however equal the records are.
    """
    one = record({"forget": probabilities()})
    line = only(compare({"a": one, "b": one}, before=one))
    assert (line.margin, line.verdict, line.rows_needed) == (None, "no margin", None)


@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_a_large_shift_is_different(shift):
    """In either direction; the difference is other − first, within its interval."""
    line = only(
        compare(
            {
                "a": record({"forget": probabilities()}),
                "b": record({"forget": probabilities(shift, 0.01)}),
            },
            before=BEFORE,
        )
    )
    assert line.verdict == "different"
    assert line.difference == pytest.approx(shift, abs=0.005)
    assert line.low < line.difference < line.high


def test_rows_are_paired():
    """A shift of .002 in 2,000 rows that spread over .6 is found: weights are the same in both."""
    n = 2000
    one, other = (
        record({"forget": probabilities(n=n)}),
        record({"forget": probabilities(0.002, 0.0005, n=n)}),
    )
    line = only(compare({"a": one, "b": other}, margin=0.01))
    assert 0 < line.low < 0.002 < line.high < 0.004
    assert line.verdict == "equivalent"  # though it is not 0
    assert only(compare({"a": one, "b": other}, margin=0.002)).verdict == "different"
    mixed = np.random.default_rng(5).permutation(other.columns["forget", "answer_probability"])
    shuffled = record({"forget": {"answer_probability": mixed}})
    assert only(compare({"a": one, "b": shuffled}, margin=0.01)).verdict == "not enough data"


def test_noise_larger_than_the_margin_is_not_enough_data():
    """Neither equal nor different."""
    noisy = record({"forget": probabilities(0.0, 0.02, seed=3)})
    assert (
        only(compare({"a": record({"forget": probabilities()}), "b": noisy}, margin=0.001)).verdict
        == "not enough data"
    )


@pytest.mark.parametrize("n", [1, 2, 6, 19])
def test_a_handful_of_rows_decides_nothing(n):
    """Below 20 rows no error rate was measured; of one row there is no interval either."""
    one, other = record({"forget": probabilities(n=n)}), record({"forget": probabilities(0.3, n=n)})
    line = only(compare({"a": one, "b": other}, margin=0.01))
    assert line.verdict == "not enough data"
    assert (line.low is None) == (n == 1)
    enough = record({"forget": probabilities(n=20)}), record({"forget": probabilities(0.3, n=20)})
    assert only(compare(dict(zip("ab", enough, strict=True)), margin=0.01)).verdict == "different"


def test_rows_without_a_number_do_not_count():
    """Relearning measures the rows that were not taught: 19 of 29 are too few."""
    columns = [
        {"answer_probability@relearned-1": np.where(np.arange(29) < 10, np.nan, level)}
        for level in (0.1, 0.9)
    ]
    line = only(
        compare(
            {"a": record({"forget": columns[0]}), "b": record({"forget": columns[1]})}, margin=0.01
        )
    )
    assert (line.rows, line.verdict) == (19, "not enough data")
    assert line.difference == pytest.approx(0.8)


def test_a_metric_of_another_program_is_shown_without_a_verdict():
    """Nothing is known of its range, and so of rows that were not seen."""
    one, other = (record({"forget": {"theirs": np.linspace(0, level, N)}}) for level in (1, 50))
    line = only(compare({"a": one, "b": other}, margin=0.01))
    assert (line.low, line.high, line.verdict, line.rows_needed) == (None, None, "–", None)
    assert line.difference == pytest.approx(24.5)


def test_other_rows_are_refused():
    """By digest, or by number where another tool's record has no digest.

    Also of --before and --retain-record.
    """
    one = record({"forget": probabilities()})
    other = record({"forget": probabilities()}, digest="e")
    fewer = record({"forget": probabilities(n=20)})
    fewer = replace(fewer, sets={"forget": replace(fewer.sets["forget"], digest=None)})
    for wrong in (other, fewer):
        with pytest.raises(BadDataError, match="b: its forget set is not that of a"):
            compare({"a": one, "b": wrong})
        with pytest.raises(BadDataError, match="--before"):
            compare({"a": one, "b": one}, before=wrong)
        with pytest.raises(BadDataError, match="--retain-record"):
            compare({"a": one, "b": one}, retain_record=wrong)


def test_what_only_one_record_has_is_skipped():
    """A metric, or a set; the latter is said."""
    both = {"forget": probabilities(), "retain": probabilities(0.2)}
    one = record(both)
    other = record({"forget": {**probabilities(), "rouge_recall": np.zeros(N)}})
    for pair in ({"a": one, "b": other}, {"a": other, "b": one}):
        found = compare(pair, margin=0.1)
        assert [(line.owner, line.metric) for line in found.pairs[0].lines] == [
            ("forget", "answer_probability")
        ]
    assert (
        "b has no retain set: it is left out" in compare({"a": one, "b": other}, margin=0.1).notes
    )


def test_model_metrics_are_compared_with_their_own_rows():
    """Areas have intervals, a p-value has none and no verdict.

    Both appear only if they can be computed for both.
    """
    rng = np.random.default_rng(0)
    one = record(
        {
            "forget": {"loss": rng.normal(1, 1, N), "ratio": rng.random(N)},
            "holdout": {"loss": rng.normal(2, 1, N)},
        }
    )
    other = record(
        {
            "forget": {"loss": rng.normal(2, 1, N), "ratio": rng.random(N) + 1},
            "holdout": {"loss": rng.normal(2, 1, N)},
        }
    )
    retained = record({"forget": {"ratio": rng.random(N) + 1}})
    lines = {
        line.metric: line
        for line in (
            compare({"a": one, "b": other}, retain_record=retained, margin=0.01).pairs[0].lines
        )
    }
    assert set(lines) == {"membership_loss", "forget_quality", "forget_distance"}
    assert lines["membership_loss"].verdict == "different"
    assert lines["membership_loss"].high < 0
    assert (lines["forget_quality"].low, lines["forget_quality"].verdict) == (None, "–")
    assert lines["forget_quality"].difference > 0
    assert {line.metric for line in compare({"a": one, "b": other}).pairs[0].lines} == {
        "membership_loss"
    }


def utility(p: float, r: float, t: float) -> dict[str, np.ndarray]:
    """What model utility is made of."""
    return {
        "answer_probability": np.full(N, p),
        "rouge_recall": np.full(N, r),
        "truth_ratio": np.full(N, t),
    }


def test_the_margin_of_model_utility_is_of_the_same_sets():
    """--before with another set beside has another utility.

    It is computed without, and not at all where a set is missing.
    """
    roles = {"retain": "retain", "facts": "utility"}
    one = record({"retain": utility(0.5, 0.5, 0.5)}, roles)
    before = record({"retain": utility(1, 1, 1), "facts": utility(0.1, 0.1, 0.1)}, roles)
    lines = {
        line.metric: line for line in compare({"a": one, "b": one}, before=before).pairs[0].lines
    }
    assert lines["model_utility"].margin == pytest.approx(0.01 * 0.5)
    both = record({"retain": utility(0.5, 0.5, 0.5), "facts": utility(0.5, 0.5, 0.5)}, roles)
    less = record({"retain": utility(1, 1, 1)}, roles)
    lines = {
        line.metric: line
        for line in compare({"a": both, "b": both}, before=less).pairs[0].lines
        if line.owner != "retain"
    }
    assert lines["model_utility"].margin is None
    assert {line.margin for line in lines.values() if line.owner == "facts"} <= {None}


def test_multiple_choice_in_either_record_is_so_in_both():
    """Another tool's record does not say it.

    The two utilities are of the same kind of probability.
    """
    columns = {"facts": {**utility(0.5, 0.5, 0.5), "normalised_probability": np.full(N, 0.25)}}
    mine, theirs = record(columns, {"facts": "utility"}), record(columns, {"facts": "utility"})
    mine = replace(mine, sets={"facts": replace(mine.sets["facts"], multiple_choice=True)})
    for pair in ({"a": mine, "b": theirs}, {"a": theirs, "b": mine}):
        (line,) = [line for line in compare(pair).pairs[0].lines if line.metric == "model_utility"]
        assert line.first == line.other == pytest.approx(3 / (2 + 2 + 4))


def test_without_a_margin_it_says_so():
    """A difference can still be seen; near or full equality has nothing to be measured by."""
    one, other, near = (
        record({"forget": probabilities(*by)}) for by in ((), (0.1, 0.001), (0, 0.001))
    )
    found = compare({"a": one, "b": other, "c": near, "d": one})
    assert [pair.lines[0].verdict for pair in found.pairs] == [
        "different",
        "no margin",
        "no margin",
    ]
    assert any("no margin" in note for note in found.notes)
    assert not compare({"a": one, "b": other}, margin=0.1).notes


def test_other_settings_are_noted():
    """Numbers of different lengths of generation are shown, with a word of warning."""
    one, other = (record({"forget": probabilities()}, max_new_tokens=length) for length in (8, 200))
    assert (
        "b was evaluated with max_new_tokens 200, a with 8"
        in compare({"a": one, "b": other}, margin=0.1).notes
    )


@pytest.mark.parametrize(
    ("first", "other", "note"),
    [
        (
            {"max_new_tokens": 32},
            {"max_new_tokens": 8},
            "b was asked about forget with max_new_tokens 8, a with max_new_tokens 32",
        ),
        (
            {"prompt": "question", "examples": 10},
            {"prompt": "question"},
            "b was asked about forget with examples None, a with examples 10",
        ),
        (
            {"examples_digest": "a"},
            {"examples_digest": "b"},
            "b was asked about forget with other examples, a with other examples",
        ),
        ({"stop": []}, {"stop": ["x"]}, "b was asked about forget with stop ['x'], a with stop []"),
        ({"stop": []}, {"stop": []}, None),
    ],
)
def test_other_ways_of_asking_are_noted(first, other, note):
    """Prompt, examples, limit and stops, set by set.

    A set that only one was asked about says nothing.
    """
    a, b = (
        record({"forget": probabilities()}, asked={"forget": asked, f"only {asked}": {}})
        for asked in (first, other)
    )
    assert list(compare({"a": a, "b": b}, margin=0.1).notes) == ([] if note is None else [note])


def test_other_words_for_rouge_are_noted():
    """A record of an mpu that knew Latin letters only is not silently compared.

    One without ROUGE may be, and another tool's.
    """
    written = {"forget": {**probabilities(), "rouge_recall": np.linspace(0, 1, N)}}
    new, old = record(written, rouge="unicode words", seed=0), record(written, seed=0)
    assert list(compare({"a": new, "b": old}, margin=0.1).notes) == [
        "b and a were scored with different words for ROUGE: evaluate the older one again"
    ]
    assert not compare(
        {"a": new, "b": record({"forget": probabilities()}, seed=0)}, margin=0.1
    ).notes
    assert not compare({"a": new, "b": record(written)}, margin=0.1).notes


def test_settings_of_checks_are_noted_where_they_were_run():
    """Another seed teaches other rows; where nothing was relearned it means nothing."""
    for run, notes in (
        (["relearning"], ["b was evaluated with seed 1, a with 0"]),
        (
            ["quantization"],
            [],
        ),
    ):
        one, other = (
            record({"forget": probabilities()}, seed=seed, robustness=run) for seed in (0, 1)
        )
        assert list(compare({"a": one, "b": other}, margin=0.1).notes) == notes


def test_a_retain_record_may_have_other_retained_rows():
    """Only its forget and holdout rows are looked at."""
    one = record({"forget": probabilities(), "retain": probabilities()})
    other = record({"forget": probabilities(), "retain": probabilities(n=N - 1)})
    assert compare({"a": one, "b": one}, margin=0.1, retain_record=other).pairs
    with pytest.raises(BadDataError, match="--retain-record: its forget set"):
        compare(
            {"a": one, "b": one},
            margin=0.1,
            retain_record=record({"forget": probabilities()}, digest="e"),
        )


def test_a_retain_record_goes_with_records_that_have_no_digest():
    """As open-unlearning's, which say how many rows they have and no more."""
    bare = record({"forget": probabilities()}, digest=None)
    assert compare(
        {"a": bare, "b": bare}, margin=0.1, retain_record=record({"forget": probabilities()})
    ).pairs
    with pytest.raises(
        BadDataError,
        match=f"--retain-record: its forget set has {N - 1} rows, the set given here has {N}",
    ):
        compare(
            {"a": bare, "b": bare},
            margin=0.1,
            retain_record=record({"forget": probabilities(n=N - 1)}),
        )


@pytest.mark.parametrize(
    "bad", [{"share": 0}, {"share": 1}, {"margin": 0}, {"margin": -1}, {"margin": float("nan")}]
)
def test_a_margin_outside_its_range_is_a_usage_error(bad):
    """Exit 2."""
    one = record({"forget": probabilities()})
    with pytest.raises(UsageError, match="margin"):
        compare({"a": one, "b": one}, **bad)
    with pytest.raises(UsageError, match="two records"):
        compare({"a": one})


def test_labels_are_short_where_they_can_be():
    """The last part of a path, or all of it."""
    assert labels(["runs/a/", "runs/b"]) == ["a", "b"]
    assert labels(["one/a", "two/a"]) == ["one/a", "two/a"]


def test_a_small_set_that_a_number_does_not_use_takes_no_verdict_from_it():
    """Model utility is made of the retain set's columns.

    Ten forget rows with columns of the same names do not count.
    """
    columns = {
        name: np.linspace(0.2, 0.9, 400)
        for name in ("answer_probability", "rouge_recall", "truth_ratio")
    }
    one = record(
        {"forget": {name: values[:10] for name, values in columns.items()}, "retain": columns}
    )
    ((*_, line),) = [pair.lines for pair in compare({"a": one, "b": one}, margin=0.05).pairs]
    assert (line.metric, line.rows, line.verdict) == ("model_utility", 400, "equivalent")


def test_rows_that_one_record_leaves_out_count_in_neither():
    """An earlier mpu scored an answer without a word 0, today's leaves the row out.

    The other rows are what is compared.
    """
    today = np.full(400, 0.8)
    earlier = today.copy()
    earlier[:40], today[:40] = 0.0, np.nan
    records = {
        "a": record({"forget": {"rouge_recall": earlier}}),
        "b": record({"forget": {"rouge_recall": today}}),
    }
    line = only(compare(records, margin=0.05))
    assert (line.first, line.other, line.rows, line.verdict) == (
        pytest.approx(0.8),
        pytest.approx(0.8),
        360,
        "equivalent",
    )


@pytest.mark.parametrize("margin", [0.015, 0.01, 0.006])
@pytest.mark.parametrize("resamples", [1000, 10_000])
def test_the_rows_that_a_margin_takes_are_those_that_show_it(margin, resamples):
    """One row fewer than the note asks for shows nothing, whatever the number of weightings.

    So many rows do.
    """
    from mpu_cli.evaluation.statistics import rows_needed

    words = []
    for n in (rows_needed(margin) - 1, rows_needed(margin)):
        one = record({"forget": probabilities(n=n)})
        words.append(
            only(compare({"a": one, "b": one}, margin=margin, resamples=resamples)).verdict
        )
    assert words == ["not enough data", "equivalent"]


def test_a_limit_of_an_earlier_mpu_is_held_against_todays():
    """An old record tells one limit for all sets, a new one how each set was asked."""
    old = record({"forget": probabilities()}, max_new_tokens=200)
    new = record(
        {"forget": probabilities()},
        asked={"forget": {"prompt": "template", "max_new_tokens": 8, "stop": []}},
    )
    notes = compare({"a": old, "b": new}, margin=0.1).notes
    assert "b was asked about forget with max_new_tokens 8, a with max_new_tokens 200" in notes


def test_other_examples_are_named_as_the_cause_of_other_tokens():
    """The remedy is the file of examples, not the chat template."""
    made = []
    for digest in ("one", "two"):
        one_record = record(
            {"knowledge": probabilities()},
            asked={"knowledge": {"prompt": "question", "examples_digest": digest}},
        )
        made.append(
            replace(
                one_record, sets={"knowledge": replace(one_record.sets["knowledge"], tokens=digest)}
            )
        )
    with pytest.raises(BadDataError) as error:
        compare({"a": made[0], "b": made[1]}, margin=0.1)
    assert error.value.hint == "run mpu eval on both with the same --few-shot file"
