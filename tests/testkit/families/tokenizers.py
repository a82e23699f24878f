"""Tokenizers and chat templates that fail, loop, grow or ask for code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from testkit.case import Case

TOKENIZER: dict[str, Callable[[dict], object]] = {
    "an empty pattern in the normaliser": lambda c: c.update(
        normalizer={"type": "Replace", "pattern": {"Regex": ""}, "content": "x"}
    ),
    "a broken pattern": lambda c: c.update(
        normalizer={"type": "Replace", "pattern": {"Regex": "(("}, "content": "x"}
    ),
    "a normaliser that doubles 24 times": lambda c: c.update(
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Replace", "pattern": {"Regex": "."}, "content": "ww"} for _ in range(24)
            ],
        }
    ),
    "an unknown model": lambda c: c["model"].update(type="Oracle"),
    "ids beyond the vocabulary": lambda c: c["model"].update(
        vocab={word: number + 1000 for word, number in c["model"]["vocab"].items()}
    ),
    "an id below zero": lambda c: c["model"]["vocab"].update(w1=-1),
    "no vocabulary": lambda c: c["model"].update(vocab={}),
    "another version": lambda c: c.update(version="9.0"),
    "an added token of a MiB": lambda c: c["added_tokens"].append(
        {**c["added_tokens"][0], "id": 64, "content": "x" * (1 << 20)}
    ),
}
SETTINGS: dict[str, dict[str, object]] = {
    "a class of another kind": {"tokenizer_class": "LlamaForCausalLM"},
    "code": {"auto_map": {"AutoTokenizer": ["x.Y", None]}},
}


def _tokenizer(change: Callable[[dict], object]):
    def damage(x: Path, w: object) -> None:
        path = x / "tokenizer.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def _settings(changes: dict[str, object]):
    def damage(x: Path, w: object) -> None:
        path = x / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


NO_TOKENIZER = ("aggregate", "audit trace", "perturb --base", "inspect", "verify")
"""They load none; what verify checks of tokenizer files is in other families."""
_PUBLISHED = {"perturb": "0"}
_WHY = "perturb copies the tokenizer's files and tokenizes nothing; whoever tokenizes refuses"
OTHERWISE: dict[str, tuple[str, dict[str, str], str]] = {
    "ids beyond the vocabulary": ("3 BadData", _PUBLISHED, _WHY),
    "no vocabulary": ("3 BadInput", _PUBLISHED, _WHY),
    "an added token of a MiB": ("0", {}, "a long token is a token"),
}
FAST = {"an unknown model", "code"}


def cases() -> Iterator[Case]:
    """On the commands that load the tokenizer, after a trial in a process of its own."""
    for said, change in TOKENIZER.items():
        expect, but, why = OTHERWISE.get(said, ("", {}, ""))
        yield Case(
            f"model: {said}",
            "model",
            _tokenizer(change),
            expect=expect,
            but=but,
            why=why,
            skip=NO_TOKENIZER,
            slow=said not in FAST,
        )
    for said, changes in SETTINGS.items():
        yield Case(
            f"model: {said}", "model", _settings(changes), skip=NO_TOKENIZER, slow=said not in FAST
        )
