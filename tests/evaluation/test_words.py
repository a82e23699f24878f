"""Words of every script: rouge-score's own for ASCII text, Unicode's elsewhere.

No script scores 0 by itself.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from tiny_rows import evidence, questions, rows
from tiny_rows import settings as quick

from mpu_cli.evaluation.evaluate import evaluate
from mpu_cli.evaluation.metric import column
from mpu_cli.evaluation.metrics import row_metrics
from mpu_cli.evaluation.records.read import read_record
from mpu_cli.evaluation.records.write import write_record
from mpu_cli.evaluation.summarise import means
from mpu_cli.evaluation.words import _folded, pieces, words

ROUGE = (
    "rouge_recall",
    "knowledge_memorization",
    "knowledge_memorization_stemmed",
    "verbatim_memorization",
)

SCRIPTS = {
    "Han": ("安娜出生在斯德哥尔摩。", list("安娜出生在斯德哥尔摩")),
    "Japanese": ("東京タワーは1958年に。", [*"東京タワーは", "1958", *"年に"]),
    "half-width": ("ｶﾞｽ １９５８", ["ガ", "ス", "1958"]),
    "Bopomofo": ("ㄅㄆㄇ", list("ㄅㄆㄇ")),
    "Thai": ("กรุงเทพ ปี ๒๕๖๐", ["ก", "รุ", "ง", "เ", "ท", "พ", "ปี", "๒๕๖๐"]),
    "Lao": ("ຄົນລາວ", ["ຄົ", "ນ", "ລ", "າ", "ວ"]),
    "Khmer": ("ភ្នំពេញ", ["ភ្", "នំ", "ពេ", "ញ"]),
    "Myanmar": ("မြန်မာ", ["မြ", "န်", "မာ"]),
    "Cyrillic": ("Анна родилась в Москве.", ["анна", "родилась", "в", "москве"]),
    "Greek": ("Πού είναι η ΠΌΛΙΣ;", ["πού", "είναι", "η", "πόλισ"]),
    "Devanagari": ("हिन्दी में किताबें।", ["हिन्दी", "में", "किताबें"]),
    "Arabic": ("مُحَمَّد في ٢٠٢٠", ["مُحَمَّد", "في", "٢٠٢٠"]),
    "Persian, with a joiner": ("می\u200cخواهم", ["میخواهم"]),
    "Hebrew": ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
    "Hangul": ("한국어 문장입니다.", ["한국어", "문장입니다"]),
    "Georgian": ("თბილისი, საქართველო", ["თბილისი", "საქართველო"]),
    "Armenian": ("Երևան քաղաք", ["երեւան", "քաղաք"]),
    "Ethiopic": ("አዲስ አበባ።", ["አዲስ", "አበባ"]),
    "Tamil": ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
    "Vietnamese": ("Tiếng Việt", ["tiếng", "việt"]),
    "accents": ("Le café naïf, déjà vu", ["le", "café", "naïf", "déjà", "vu"]),
    "accents apart": ("Le cafe\u0301 nai\u0308f", ["le", "café", "naïf"]),
    "soft hyphen": ("Stra\u00adße", ["strasse"]),
    "English with typographic signs": ("don’t stop – £55,000…", ["don", "t", "stop", "55", "000"]),
    "Latin inside Han": ("在tower里2020年", ["在", "tower", "里", "2020", "年"]),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_words(name):
    """The words of each text; the same text has ROUGE 1, without its last word less, another 0."""
    text, expected = SCRIPTS[name]
    assert words(text, stem=False) == expected
    for metric in ROUGE:
        item = row_metrics()[metric].item
        assert item(evidence(text=text, said=text)) == 1
        assert (
            len(expected) == 1
            or 0 < item(evidence(text=text, said=" ".join([*expected[:-1], "zzz"]))) < 1
        )
        assert item(evidence(text=text, said="zzz ✓")) == 0


@pytest.mark.parametrize("stem", [True, False])
@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(max_codepoint=127)), st.text(st.characters(max_codepoint=127)))
@example("The runners' running_times: 1,958.5%", "runner ran\x1f times")
def test_ascii_scores_are_rouge_scores_own(stem, reference, written):
    """Words and scores of any two ASCII texts are those of rouge-score as it is.

    The way of other texts gives the same words.
    """
    assert words(reference, stem=stem) == list(DefaultTokenizer(stem).tokenize(reference))
    beside = words(reference + " é", stem=stem)
    assert beside == [*words(reference, stem=stem), "é"]
    expected = (
        RougeScorer(["rougeL"], use_stemmer=stem).score(reference, written)["rougeL"].fmeasure
    )
    found = row_metrics()["knowledge_memorization" + ("_stemmed" if stem else "")].item(
        evidence(text=reference or "!", said=written)
    )
    assert found == pytest.approx(expected) or (
        math.isnan(found) and not words(reference, stem=False)
    )


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_nothing_is_lost_of_any_text(text):
    """Pieces are all of a text but its white space.

    Words are its letters and digits, each in one word, none empty.
    """
    assert "".join(pieces(text)) == "".join(text.split())
    found, letter = words(text, stem=False), regex.compile(r"[\p{L}\p{Nd}\p{Nl}]")
    if not text.isascii():
        assert letter.findall("".join(found)) == letter.findall(_folded(text))
    assert all(found)


def test_long_texts_take_time_in_proportion():
    """A hundred thousand marks, letters or symbols are no trap for the patterns."""
    for text in (
        "a\u0301" * 100_000,
        "漢" * 100_000,
        "\u0301" * 100_000,
        "👍" * 100_000,
        "a." * 100_000 + "é",
    ):
        words(text, stem=False)
        pieces(text)


def test_a_stem_is_an_english_words():
    """In a mixed text, too; words of other letters are left alone."""
    assert words("runners running cafés Läufer", stem=True) == ["runner", "run", "cafés", "läufer"]


WORDLESS = ("👍🎉", "❤️", "…!?", "。、", "—")


def test_an_answer_without_a_word_leaves_its_row_out(tiny_pair, tmp_path):
    """Emoji and punctuation only.

    No number for this row, the mean is of the others, and how many and why is said.
    """
    values = [
        {"question": f"w{i} ?", "answer": answer} for i, answer in enumerate(["w1 w2", *WORDLESS])
    ]
    sets = [
        questions(tmp_path, "forget", "forget", values),
        questions(tmp_path, "retain", "retain", values[1:]),
    ]
    done = evaluate(tiny_pair("llama").model, sets, quick(robustness=("leak",), samples=2)).record
    names = (
        "rouge_recall",
        "knowledge_memorization",
        "knowledge_memorization_stemmed",
        "rouge_recall@leak-1",
        "rouge_recall@leak-2",
    )
    for metric in names:
        assert [math.isnan(value) for value in done.columns["forget", metric]] == [False] + [
            True
        ] * len(WORDLESS)
        assert (
            done.left_out["forget", metric]
            == "5 of 6 rows: the answer has no word, only punctuation or symbols"
        )
        assert done.values["forget"][metric]["value"] == done.columns["forget", metric][0]
    for metric in names[:3]:
        assert ("retain", metric) not in done.columns
        assert (
            done.left_out["retain", metric]
            == "5 of 5 rows: the answer has no word, only punctuation or symbols"
        )
    assert done.left_out["", "model_utility"].startswith(
        "retain: 5 of 5 rows: the answer has no word"
    )


def test_a_row_without_a_word_does_not_cost_the_models_utility(tiny_pair, tmp_path):
    """Its ROUGE is of the other rows; the record tells so, also when it is read again."""
    values = [
        {**row, "answer": answer}
        for row, answer in zip(rows(4, 0), ("w1 w2 .", "w3 .", "👍", "w4 w5 ."), strict=True)
    ]
    done = evaluate(
        tiny_pair("llama").model, [questions(tmp_path, "retain", "retain", values)], quick()
    ).record
    assert done.left_out["retain", "rouge_recall"].startswith("1 of 4 rows: ")
    write_record(tmp_path / "record", done, "mpu", texts=False)
    for record in (done, read_record(tmp_path / "record")):
        parts = [
            np.nanmean(record.columns["retain", name])
            for name in ("answer_probability", "rouge_recall", "truth_ratio")
        ]
        expected = 3 / sum(1 / part for part in parts) if all(parts) else 0.0
        assert means(record)["model", "model_utility"] == pytest.approx(expected)


def test_loops_are_seen_in_every_script():
    """A sentence written again and again repeats and has a low entropy, with spaces or without."""
    pairs = {
        "en": ("to be or not to be ", "one two three four five six seven "),
        "zh": ("好的好的", "安娜出生在斯德哥尔摩"),
        "ja": ("はいはい", "東京はどこですか"),
        "th": ("ดีดี", "กรุงเทพมหานคร"),
        "km": ("បាទបាទ", "ភ្នំពេញកម្ពុជា"),
    }
    for name, (loop, fine) in pairs.items():
        looped, other = evidence(said=loop * 6), evidence(said=fine)
        repetition, entropy, empty = (
            row_metrics()[metric].item for metric in ("repetition", "ngram_entropy", "empty")
        )
        assert repetition(looped) > 0.6 > repetition(other), name
        assert entropy(looped) < entropy(other) + 1 and entropy(other) > 1.5, name
        assert empty(looped) == 0
    assert column([evidence(said="👍")], row_metrics()["empty"]).tolist() == [0]


def test_english_fluency_is_of_white_space():
    """Punctuation belongs to its word, as before other scripts were known."""
    text = "well, well , well… it’s here - it’s here"
    assert pieces(text) == text.split()
