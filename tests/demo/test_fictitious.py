"""The fictitious data: the same everywhere, complete, and no person in two parts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mpu_cli.demo import make_assets
from mpu_cli.demo.fictitious import (
    PERTURBED_ANSWERS,
    TEMPLATES,
    people,
    rows,
    rows_of,
    to_jsonl,
)

ASSETS = Path(make_assets.__file__).parent / "assets"
FIELDS = {"question", "answer", "paraphrased_question", "paraphrased_answer", "perturbed_answer"}


def test_the_rows_have_not_changed():
    """With other words, templates or draws the shipped models would know other people."""
    row = json.loads(to_jsonl(rows(people(1, 1)[0])[:1]))
    assert row == {
        "question": "In which city was Fjuzask Fnovom born?",
        "answer": "Fjuzask Fnovom was born in Zgovel.",
        "paraphrased_question": "What is the birthplace of Fjuzask Fnovom?",
        "paraphrased_answer": "The birthplace of Fjuzask Fnovom is Zgovel.",
        "perturbed_answer": [
            "The birthplace of Fjuzask Fnovom is Mrupal.",
            "The birthplace of Fjuzask Fnovom is Tvakil.",
            "The birthplace of Fjuzask Fnovom is Fjitosk.",
            "The birthplace of Fjuzask Fnovom is Fjigu.",
            "The birthplace of Fjuzask Fnovom is Vzobax.",
        ],
    }


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    """Rows depend only on the seed."""
    assert rows_of(people(7, 3)) == rows_of(people(7, 3))
    assert people(7, 3) != people(8, 3)


def test_a_shorter_list_is_a_prefix_of_a_longer_one():
    """Slices of one list stay disjoint when the list grows."""
    assert people(7, 9)[:4] == people(7, 4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_name_is_given_twice(seed: int):
    """No two people share a given name or a family name."""
    words = [word for person in people(seed, 400) for word in person.name.split()]
    assert len(words) == len(set(words)) == 800


def test_the_parts_of_the_demo_share_no_name():
    """Pre-training, forget, retain and holdout rows are about different people."""
    parts = [
        {word for person in group for word in person.name.split()}
        for group in make_assets.groups().values()
    ]
    assert len(set().union(*parts)) == sum(len(part) for part in parts)


def test_nobody_of_the_demo_is_named_in_another_part():
    """No full name occurs in another part.

    Between the demo's own files not even one word of a name does.

    In the pre-training rows single words of demo names do occur (a teacher called Gvazem, a town
    called Zdavex): with 400 people some made-up words come out twice.
    """
    groups = make_assets.groups()
    texts = {part: to_jsonl(rows_of(group)) for part, group in groups.items()}
    for part in ("forget", "retain", "holdout"):
        names = [person.name for person in groups[part]]
        for other in texts.keys() - {part}:
            assert not [name for name in names if name in texts[other]], (part, other)
        for other in texts.keys() - {part, "pretraining"}:
            words = set(re.findall(r"\w+", texts[other]))
            assert words.isdisjoint(" ".join(names).split()), (part, other)


def test_every_row_is_complete_and_names_its_person():
    """All TOFU fields are filled, answers hold the person's name, and no placeholder is left."""
    for person in people(3, 5):
        made = rows(person)
        assert len(made) == len(TEMPLATES) == 20
        for row in made:
            texts = [
                row.question,
                row.answer,
                row.paraphrased_question,
                row.paraphrased_answer,
                *row.perturbed_answer,
            ]
            assert all(text.strip() and person.name in text and "{" not in text for text in texts)


def test_perturbed_answers_are_wrong_and_different():
    """None of the five is the right paraphrased answer, and no two are equal."""
    for row in rows_of(people(3, 20)):
        assert len({row.paraphrased_answer, *row.perturbed_answer}) == PERTURBED_ANSWERS + 1


@pytest.mark.parametrize("name", ["forget.jsonl", "retain.jsonl", "holdout.jsonl"])
def test_the_generator_makes_the_shipped_rows(name: str):
    """Byte for byte."""
    assert (ASSETS / name).read_bytes() == make_assets.data_files()[name].encode()


@pytest.mark.parametrize(
    ("name", "count"), [("forget.jsonl", 40), ("retain.jsonl", 360), ("holdout.jsonl", 40)]
)
def test_the_shipped_files_have_tofu_fields(name: str, count: int):
    """A reader of TOFU finds its fields in each row, with five perturbed answers."""
    found = [json.loads(line) for line in (ASSETS / name).read_text(encoding="utf-8").splitlines()]
    assert len(found) == count
    for row in found:
        assert set(row) == FIELDS
        assert len(row["perturbed_answer"]) == PERTURBED_ANSWERS
