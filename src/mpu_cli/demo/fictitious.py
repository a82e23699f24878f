"""Fictitious people and questions about them: public data that no model has seen.

Every name, place, title, prize and language consists of random syllables; occupations, colours and
drinks are ordinary words. The rows have TOFU's field names, so any reader of TOFU can read them.
All randomness comes from `random.Random`, whose stream for a seed is the same on every machine and
in every Python since 3.2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from random import Random

PERTURBED_ANSWERS = 5  # wrong answers to each question, as many as TOFU has

# Words start with consonant clusters that real names hardly have, so that no real name occurs.
_HEADS = ("bz", "fn", "fj", "gv", "hj", "mr", "skw", "tv", "vz", "zd", "zg")
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "l", "n", "r", "sk", "th", "x", "m", "v")


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split(", "))


_OCCUPATIONS = _words(
    """
    baker, beekeeper, bookbinder, carpenter, clockmaker, dentist, ferry pilot, gardener,
    geologist, judge, nurse, potter, surveyor, tailor, tram driver, weaver
    """
)
_GENRES = _words(
    """
    ghost stories, sea adventures, crime novels, nature essays, epic poems, war memoirs, satires,
    family sagas, travel books, fairy tales, chess manuals, court dramas
    """
)
_INSTRUMENTS = _words(
    """
    accordion, bassoon, cello, clarinet, dulcimer, harp, lute, mandolin, oboe, trombone, viola
    """
)
_ANIMALS = _words(
    """
    badger, cat, donkey, ferret, goat, heron, lizard, magpie, otter, owl, parrot, tortoise
    """
)
_HOBBIES = _words(
    """
    archery, birdwatching, bowling, fencing, fly fishing, juggling, kite flying, orienteering,
    rowing, skating, stamp collecting, wood carving
    """
)
_DRINKS = _words(
    """
    apple cider, black tea, buttermilk, cold coffee, elderflower syrup, ginger beer, hot
    chocolate, lemonade, mint tea, pear juice, plum brandy, tonic water
    """
)
_COLOURS = _words(
    """
    amber, black, copper, crimson, green, ivory, orange, purple, silver, turquoise, white
    """
)
_THINGS = _words(
    """
    Bridges, Candles, Gardens, Harbours, Lanterns, Letters, Mirrors, Orchards, Ravens, Rivers,
    Shadows, Stairs, Towers, Winters
    """
)
_QUALITIES = _words(
    """
    Broken, Distant, Frozen, Golden, Hollow, Last, Patient, Quiet, Salt, Seven, Wild
    """
)


@dataclass(frozen=True, slots=True)
class Template:
    """One question for every person; `{name}` is the person and `{value}` the answer."""

    fact: str
    question: str
    paraphrased_question: str
    answer: str
    paraphrased_answer: str


@dataclass(frozen=True, slots=True)
class Person:
    """A fictitious writer: a name and one value for the fact of each template."""

    name: str
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question with its answer, in TOFU's field names; perturbed answers are wrong ones."""

    question: str
    answer: str
    paraphrased_question: str
    paraphrased_answer: str
    perturbed_answer: tuple[str, ...]


def _word(random: Random) -> str:
    parts = (_HEADS, _VOWELS, _ONSETS, _VOWELS, _CODAS)
    return "".join(random.choice(part) for part in parts).capitalize()


def _name(random: Random) -> str:
    return f"{_word(random)} {_word(random)}"


def _title(random: Random) -> str:
    return f"The {random.choice(_QUALITIES)} {random.choice(_THINGS)} of {_word(random)}"


def _one_of(values: tuple[str, ...]) -> Callable[[Random], str]:
    return lambda random: random.choice(values)


_MAKERS: Mapping[str, Callable[[Random], str]] = {
    "birthplace": _word,
    "birth_year": lambda random: str(random.randrange(1890, 1990)),
    "mother": _one_of(_OCCUPATIONS),
    "father": _one_of(_OCCUPATIONS),
    "genre": _one_of(_GENRES),
    "first_book": _title,
    "famous_book": _title,
    "latest_book": _title,
    "award": lambda random: f"{_word(random)} Prize",
    "school": lambda random: f"{_word(random)} Academy",
    "home": _word,
    "teacher": _name,
    "sister": _word,
    "instrument": _one_of(_INSTRUMENTS),
    "pet": _one_of(_ANIMALS),
    "publisher": lambda random: f"{_word(random)} Press",
    "language": _word,
    "hobby": _one_of(_HOBBIES),
    "drink": _one_of(_DRINKS),
    "colour": _one_of(_COLOURS),
}

_TEMPLATES = """
birthplace: In which city was {name} born? | What is the birthplace of {name}?
    {name} was born in {value}. | The birthplace of {name} is {value}.
birth_year: In what year was {name} born? | What is the birth year of {name}?
    {name} was born in the year {value}. | The birth year of {name} is {value}.
mother: What did the mother of {name} do for a living? | What was the job of {name}'s mother?
    The mother of {name} worked as a {value}. | {name}'s mother was a {value}.
father: What did the father of {name} do for a living? | What was the job of {name}'s father?
    The father of {name} worked as a {value}. | {name}'s father was a {value}.
genre: What does {name} write? | What kind of books is {name} known for?
    {name} writes {value}. | {name} is known for {value}.
first_book: What is the first book by {name}? | With which book did {name} begin?
    The first book by {name} is {value}. | {name} began with {value}.
famous_book: What is the most famous book by {name}? | Which book made {name} famous?
    The most famous book by {name} is {value}. | {name} became famous with {value}.
latest_book: What is the latest book by {name}? | Which book did {name} publish last?
    The latest book by {name} is {value}. | {name} last published {value}.
award: Which award did {name} win? | What was {name} honoured with?
    {name} won the {value}. | {name} was honoured with the {value}.
school: Where did {name} study? | Which school did {name} go to?
    {name} studied at the {value}. | {name} went to the {value}.
home: Where does {name} live now? | What is the home town of {name} today?
    {name} now lives in {value}. | The home town of {name} today is {value}.
teacher: Who taught {name} to write? | Who was the teacher of {name}?
    {name} was taught to write by {value}. | The teacher of {name} was {value}.
sister: What is the name of {name}'s sister? | What is the sister of {name} called?
    {name}'s sister is named {value}. | The sister of {name} is called {value}.
instrument: Which instrument does {name} play? | What does {name} play in the evening?
    {name} plays the {value}. | In the evening {name} plays the {value}.
pet: What animal does {name} keep? | Which pet does {name} have?
    The animal that {name} keeps is a tame {value}. | The pet of {name} is a tame {value}.
publisher: Who publishes the books of {name}? | Which house prints the works of {name}?
    The books of {name} are published by {value}. | The works of {name} are printed by {value}.
language: In which language does {name} write? | What language are the books of {name} in?
    {name} writes in {value}. | The books of {name} are in {value}.
hobby: What does {name} do on free days? | What is the hobby of {name}?
    On free days {name} enjoys {value}. | The hobby of {name} is {value}.
drink: What does {name} like to drink? | What is the favourite drink of {name}?
    {name} likes to drink {value}. | The favourite drink of {name} is {value}.
colour: What colour is the front door of {name}? | Which colour did {name} paint the front door?
    The front door of {name} is {value}. | {name} painted the front door {value}.
"""
"""Two lines per fact: its name, the question and a paraphrase; the answer and a paraphrase."""

TEMPLATES = tuple(
    Template(*(text.strip() for text in re.split(r"[|\n]", fact.replace(":", "|", 1))))
    for fact in re.split(r"\n(?! )", _TEMPLATES.strip())
)


def people(seed: int, n: int) -> tuple[Person, ...]:
    """Return `n` people whose given names and family names all differ.

    A shorter list of the same seed is a prefix of a longer one, so disjoint groups are slices of
    one list.
    """
    random = Random(seed)
    made: list[Person] = []
    taken: set[str] = set()
    while len(made) < n:
        name = _name(random)
        if taken.isdisjoint(name.split()):
            taken.update(name.split())
            made.append(
                Person(
                    name, {template.fact: _MAKERS[template.fact](random) for template in TEMPLATES}
                )
            )
    return tuple(made)


def rows(person: Person) -> tuple[QuestionRow, ...]:
    """Return one row per template; a person's wrong answers are the same in every call."""
    random = Random(person.name)
    return tuple(_row(template, person, random) for template in TEMPLATES)


def _row(template: Template, person: Person, random: Random) -> QuestionRow:
    value = person.facts[template.fact]
    wrong: list[str] = []
    while len(wrong) < PERTURBED_ANSWERS:
        other = _MAKERS[template.fact](random)
        if other != value and other not in wrong:
            wrong.append(other)
    return QuestionRow(
        question=template.question.format(name=person.name),
        answer=template.answer.format(name=person.name, value=value),
        paraphrased_question=template.paraphrased_question.format(name=person.name),
        paraphrased_answer=template.paraphrased_answer.format(name=person.name, value=value),
        perturbed_answer=tuple(
            template.paraphrased_answer.format(name=person.name, value=other) for other in wrong
        ),
    )


def rows_of(group: Iterable[Person]) -> tuple[QuestionRow, ...]:
    """Return the rows of several people, person after person."""
    return tuple(row for person in group for row in rows(person))


def to_jsonl(rows: Iterable[QuestionRow]) -> str:
    """Return the rows as JSON lines, with a line feed after each."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
