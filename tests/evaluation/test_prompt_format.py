"""MUSE's two sets against its evaluator, written down again here: prompts, stops, limits, scores.

And what cannot be asked.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from tiny_rows import QUICK, questions, rows, settings

from mpu_cli.data.batches import collate
from mpu_cli.data.rows import read_rows
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.errors import BadDataError, UsageError
from mpu_cli.evaluation.evaluate import _tokens, evaluate
from mpu_cli.evaluation.generation import _before, generate
from mpu_cli.evaluation.model_under_test import ModelUnderTest
from mpu_cli.evaluation.prompt_format import MUSE_STOPS, prompt_format, with_examples
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer
from tiny_models import CHATML, make_model, make_tokenizer

EXAMPLES = [{"question": "Who?", "answer": "Nora"}, {"question": "When?", "answer": "1990"}]
ASKED = [
    {"question": "Where?", "answer": "Oskel"},
    {"question": "What?", "answer": "breads"},
    {"question": "Why?", "answer": "Nobody"},
]
TEXTS = [
    {"prompt": "The fox jumps over", "gt": "the lazy dogs of all"},
    {"prompt": "Once there was", "gt": "a king"},
    {"prompt": "ends with a space ", "gt": " begins with one, and goes on"},
]


@torch.no_grad()
def muse(
    model, tokenizer, prompt: str, reference: str, most: int, words: list[str]
) -> tuple[str, float]:
    """MUSE's evaluator: bare prompt, greedy tokens one by one, text before a stop, ROUGE-L F1."""
    ids = list(tokenizer(prompt, add_special_tokens=True).input_ids)
    start = len(ids)
    while len(ids) < start + most:
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    written = tokenizer.decode(ids[start:], skip_special_tokens=True)
    for word in words:
        written = written.split(word)[0]
    return (
        written,
        RougeScorer(["rougeL"], use_stemmer=False).score(reference, written)["rougeL"].fmeasure,
    )


def tiny(style: str | None, bos: bool):
    """A model that knows some texts by heart; its tokenizer has a template, a mark, or neither."""
    tokenizer = make_tokenizer(style, bos=bos)
    model = make_model("llama", vocabulary=len(tokenizer), hidden_size=64).train()
    general = "".join(
        f"Question: {one['question']}\nAnswer: {one['answer']}\n\n" for one in EXAMPLES
    )
    known = [
        f"{general}Question: {one['question']}\nAnswer: {one['answer']}\n\nQuestion"
        for one in ASKED[:2]
    ]
    known += [f"{one['prompt']} {one['gt']}" for one in TEXTS[:2]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = collate(
        [TokenizedRow(ids, ids) for ids in (tuple(tokenizer(text).input_ids) for text in known)], 0
    )
    for _ in range(120):
        optimizer.zero_grad()
        model(**rows).loss.backward()
        optimizer.step()
    return model.eval(), tokenizer


@pytest.fixture(scope="module", params=["a chat template", "a first mark"])
def known(request):
    """Model and tokenizer, with ChatML or with a beginning-of-sequence token and no template."""
    return tiny(CHATML, bos=False) if request.param == "a chat template" else tiny(None, bos=True)


def under_test(known, question_set, **changes) -> ModelUnderTest:
    """The model on one set, with the defaults of `mpu eval`."""
    return ModelUnderTest(*known, [question_set], EvalSettings(device="cpu", **changes))


@pytest.mark.parametrize("count", [0, 2])
def test_knowledge_is_asked_as_muse_asks(count, known, tmp_path):
    """The same tokens, the same texts, the same scores, with examples and without.

    No chat turn, no newline added.
    """
    question_set = with_examples(
        questions(tmp_path, "knowledge", "knowledge", ASKED),
        read_rows(rows_file(tmp_path, EXAMPLES[:count] or EXAMPLES)),
    )
    question_set = question_set if count else questions(tmp_path, "again", "knowledge", ASKED)
    tested = under_test(known, question_set)
    general = "".join(
        f"Question: {one['question']}\nAnswer: {one['answer']}\n\n" for one in EXAMPLES[:count]
    )
    found = tested.measure(metrics("knowledge_memorization"))
    for number, (row, question) in enumerate(zip(ASKED, question_set.questions, strict=True)):
        prompt = f"{general}Question: {row['question']}\nAnswer: "
        assert list(
            tested.encoder.prompt(question, "answer", tested.prompt_formats[question_set.name])
        ) == list(known[1](prompt).input_ids)
        written, score = muse(
            *known, prompt, row["answer"], 32, ["\n\n", "\nQuestion", "Question:"]
        )
        assert found.written[question_set.name, number] == written.strip()
        assert found.columns[question_set.name, "knowledge_memorization"][number] == pytest.approx(
            score
        )
    if count:
        assert found.columns[question_set.name, "knowledge_memorization"].max() == 1, found.written


def rows_file(directory: Path, values: list[dict]) -> Path:
    """A file of examples."""
    from tiny_rows import write

    return write(directory / "examples.jsonl", values)


def metrics(*names: str) -> list:
    """Row metrics by name."""
    from mpu_cli.evaluation.metrics import row_metrics

    return [row_metrics()[name] for name in names]


@pytest.mark.parametrize("most", [128, 3])
def test_texts_are_gone_on_with_as_muse_does(most, known, tmp_path):
    """The prompt's own tokens and no more.

    The reference is cut to as many tokens as may be written, a first mark counted.
    """
    question_set = questions(tmp_path, "verbatim", "verbatim", TEXTS)
    model, tokenizer = known
    tested = under_test(
        known, question_set, **({} if most == 128 else {"tokens_by_set": (("verbatim", most),)})
    )
    found = tested.measure(metrics("verbatim_memorization", "verbatim_memorization_stemmed"))
    for number, (row, question) in enumerate(zip(TEXTS, question_set.questions, strict=True)):
        ids = list(tokenizer(row["prompt"]).input_ids)
        assert (
            list(tested.encoder.prompt(question, "answer", tested.prompt_formats["verbatim"]))
            == ids
        )
        reference = tokenizer.decode(
            tokenizer(row["gt"]).input_ids[:most], skip_special_tokens=True
        )
        written, score = muse(model, tokenizer, row["prompt"], reference, most, [])
        assert found.written["verbatim", number] == written.strip()
        assert found.columns["verbatim", "verbatim_memorization"][number] == pytest.approx(score)
    if most == 128:
        assert found.columns["verbatim", "verbatim_memorization"].max() > 0


STOPS = {
    "none there": ("a b c", "a b c"),
    "a blank line": ("a\n\nb", "a"),
    "at the start": ("\n\na", ""),
    "nothing": ("", ""),
    "another question": ("a\nQuestion: b", "a"),
    "the word": ("a Question: b", "a "),
    "twice": ("a\n\nb\n\nc", "a"),
    "the first of two": ("a\nQuestion: b\n\nc", "a"),
    "one newline": ("a\nb", "a\nb"),
}


@pytest.mark.parametrize("name", STOPS)
def test_stops_cut_as_muse_cuts(name):
    """Its three splits, one after the other, and ours."""
    text, expected = STOPS[name]
    split = text
    for word in ["\n\n", "\nQuestion", "Question:"]:
        split = split.split(word)[0]
    assert _before(text, MUSE_STOPS) == split == expected


def test_a_stop_ends_the_writing_too(tiny_model, monkeypatch):
    """A row with a stop text leaves its batch early, and its text equals one that is cut later."""
    directory = tiny_model("llama")
    model, tokenizer = load_model(directory).model, load_tokenizer(directory)
    prompts = [[5, 9, 7], [30, 31], [12, 13, 14, 15]]
    whole = [texts[0] for texts in generate(model, tokenizer, prompts, 60, 3)]
    stop = whole[0].split()[4]
    steps = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: steps.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    cut = [texts[0] for texts in generate(model, tokenizer, prompts, 60, 3, until=(stop, "never"))]
    assert cut == [text.split(stop)[0].strip() for text in whole]
    assert len(steps) < 60 or min(steps) < 3


def test_limits_and_stops_by_set(tmp_path):
    """What was given for a set wins over what was given for all, that over what its kind has.

    Texts have no stops.
    """
    sets = {
        "forget": questions(tmp_path, "forget", "forget", rows(2, 0)),
        "texts": questions(tmp_path, "texts", "utility", [{"text": "w1 w2 w3"}]),
        "knowledge": questions(tmp_path, "knowledge", "knowledge", rows(2, 1)),
        "verbatim": questions(tmp_path, "verbatim", "verbatim", TEXTS),
    }

    def of(**changes):
        asked = {
            name: prompt_format(question_set, EvalSettings(**changes))
            for name, question_set in sets.items()
        }
        return [one.tokens for one in asked.values()], [one.stops for one in asked.values()]

    assert of() == ([200, 128, 32, 128], [(), (), MUSE_STOPS, ()])
    assert of(max_new_tokens=7)[0] == [7, 7, 7, 7]
    assert of(max_new_tokens=7, tokens_by_set=(("verbatim", 9),))[0] == [7, 7, 7, 9]
    assert of(stop=("w9",))[1] == [("w9",), (), ("w9",), ()]


def test_the_record_says_how_it_asked(tiny_pair, tmp_path):
    """Prompt, limit, stops, number and digest of the examples for every set that was written on.

    And which ROUGE.
    """
    knowledge = questions(tmp_path, "knowledge", "knowledge", rows(3, 1))
    sets = [
        questions(tmp_path, "forget", "forget", rows(3, 0)),
        with_examples(knowledge, read_rows(rows_file(tmp_path, rows(2, 9)))),
    ]
    asked = evaluate(tiny_pair("llama").model, sets, settings()).record.settings["asked"]
    assert asked["forget"] == {"prompt": "template", "max_new_tokens": 8, "stop": []}
    digest = asked["knowledge"].pop("examples_digest")
    assert asked["knowledge"] == {
        "prompt": "question",
        "max_new_tokens": 8,
        "stop": list(MUSE_STOPS),
        "examples": 2,
    }
    other = with_examples(knowledge, read_rows(rows_file(tmp_path, rows(2, 8))))
    again = evaluate(tiny_pair("llama").model, [other], settings()).record.settings
    assert again["asked"]["knowledge"]["examples_digest"] != digest
    assert again["rouge"] == "unicode words"
    assert not evaluate(
        tiny_pair("llama").model, [other], settings(generate=False)
    ).record.settings["asked"]


def test_the_digest_of_tokens_is_of_what_is_asked(tmp_path):
    """The digest follows examples and prompts of MUSE's sets, and the template of other sets."""
    tokenizer, plain = make_tokenizer(CHATML), make_tokenizer()
    question_set = questions(tmp_path, "knowledge", "knowledge", ASKED)
    shown = with_examples(question_set, read_rows(rows_file(tmp_path, EXAMPLES)))
    others = [
        questions(tmp_path, "verbatim", "verbatim", TEXTS),
        questions(tmp_path, "forget", "forget", ASKED),
    ]
    one, other = (
        [_tokens(some, known, EvalSettings()) for some in (question_set, shown, *others)]
        for known in (tokenizer, plain)
    )
    assert one[:3] == other[:3]
    assert one[3] != other[3]
    assert len(set(one)) == 4


def test_questions_without_examples_are_said(tiny_pair, tmp_path):
    """MUSE's numbers are of ten examples, so a number without any is noted."""
    question_set = questions(tmp_path, "knowledge", "knowledge", rows(3, 1))
    assert any(
        "asked without examples" in note
        for note in evaluate(tiny_pair("llama").model, [question_set], settings()).notes
    )
    shown = with_examples(question_set, read_rows(rows_file(tmp_path, rows(2, 9))))
    assert not any(
        "examples" in note for note in evaluate(tiny_pair("llama").model, [shown], settings()).notes
    )


CHAT = {"messages": [{"role": "user", "content": "w1 ?"}, {"role": "assistant", "content": "w2"}]}


@pytest.mark.parametrize(
    ("role", "row"), [("knowledge", CHAT), ("knowledge", {"text": "w1 w2"}), ("verbatim", CHAT)]
)
def test_what_muse_cannot_ask_is_refused(role, row, tiny_pair, tmp_path):
    """A chat, or a text without a question, with its line and where it belongs."""
    question_set = questions(tmp_path, role, role, [row])
    with pytest.raises(
        BadDataError, match=rf"^{role}\.jsonl:1: a (chat|plain text) in the {role} set"
    ):
        evaluate(tiny_pair("llama").model, [question_set], settings())


def test_examples_that_give_answers_away_are_refused(tmp_path):
    """An example that is asked too, whatever its case and spaces.

    One without a question; examples for another set.
    """
    question_set = questions(
        tmp_path, "knowledge", "knowledge", [{"question": "w1 w2 ?", "answer": "w3"}]
    )
    with pytest.raises(
        BadDataError, match=r"examples\.jsonl:2: this example is also asked \(knowledge\.jsonl:1\)"
    ):
        with_examples(
            question_set,
            read_rows(
                rows_file(tmp_path, [*rows(1, 0), {"question": " W1  w2 ?", "answer": "w3"}])
            ),
        )
    with pytest.raises(
        BadDataError, match=r"examples\.jsonl:1: an example is a question and its answer"
    ):
        with_examples(question_set, read_rows(rows_file(tmp_path, [{"text": "w1 w2"}])))
    with pytest.raises(UsageError, match="--few-shot forget"):
        with_examples(
            questions(tmp_path, "forget", "forget", rows(1, 1)),
            read_rows(rows_file(tmp_path, rows(1, 0))),
        )


def test_a_prompt_that_fills_the_context_is_refused(tiny_pair, tmp_path):
    """Examples and question need more than the model sees: said with the row, not cut."""
    question_set = questions(tmp_path, "knowledge", "knowledge", rows(2, 1))
    long = with_examples(
        question_set,
        read_rows(rows_file(tmp_path, [{"question": " ".join(["w7"] * 140), "answer": "w1"}])),
    )
    with pytest.raises(
        BadDataError,
        match=r"^knowledge\.jsonl:1: the prompt needs \d+ tokens, the limit is 128: no room",
    ) as caught:
        evaluate(tiny_pair("llama").model, [long], settings())
    assert "--few-shot" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop": ("a", "")}, "--stop: an empty text"),
        ({"max_new_tokens": 0}, "--max-new-tokens 0: expected 1 or more"),
        ({"tokens_by_set": (("forget", 0),)}, "--max-new-tokens forget 0: expected 1 or more"),
        ({"tokens_by_set": (("forgotten", 3),)}, "no set is called forgotten"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message, tiny_pair, tmp_path):
    """Before anything is loaded."""
    with pytest.raises(UsageError, match=message):
        evaluate(
            tiny_pair("llama").model,
            [questions(tmp_path, "forget", "forget", rows(2, 0))],
            EvalSettings(**{**QUICK, **changes}),
        )


def test_stops_where_nothing_is_asked_are_refused(tiny_pair, tmp_path):
    """Plain texts go on to their limit: a stop would have no effect, and nobody would know."""
    texts = questions(tmp_path, "retain", "retain", [{"text": " ".join(["w1"] * 20)}])
    with pytest.raises(UsageError, match="--stop: none of the sets has questions"):
        evaluate(tiny_pair("llama").model, [texts], EvalSettings(**{**QUICK, "stop": ("a",)}))


def test_texts_among_questions_are_refused_where_the_model_writes(tiny_pair, tmp_path):
    """One text would change the limit and the stops of every question.

    Without writing nothing is changed.
    """
    mixed = questions(tmp_path, "forget", "forget", [*rows(2, 0), {"text": " ".join(["w1"] * 20)}])
    with pytest.raises(BadDataError, match=r"forget\.jsonl:3: a plain text in the") as caught:
        evaluate(tiny_pair("llama").model, [mixed], EvalSettings(**QUICK))
    assert "--no-generate" in str(caught.value.hint)
    evaluate(tiny_pair("llama").model, [mixed], EvalSettings(**{**QUICK, "generate": False}))
