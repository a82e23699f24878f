"""Files, shards and copies in each other's place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from testkit.case import UNSEEN, Case
from testkit.damage import (
    manifest_of,
    names_of,
    of_published,
    parts,
    redigest,
    rewrite,
    swap,
    write_parts,
)

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def _shards(copy: Path) -> list[Path]:
    return sorted(copy.glob("*-0*.safetensors"))


def _swap_shards(copy: Path) -> None:
    files = _shards(copy)
    swap(files[0], files[1])


def _index(copy: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = next(copy.glob("*.index.json"))
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def _copies(x: Path) -> None:
    swap(x / "copy-1", x / "copy-2")


def _redigested(damage: Callable[[Path], object]):
    def both(x: Path, w: object) -> None:
        damage(x)
        redigest(x)

    return both


def _copies_with_of(x: Path, w: object) -> None:
    _copies(x)
    of = {copy["name"]: copy["of"] for copy in manifest_of(x)["copies"]}
    redigest(x)

    def change(content: dict) -> None:
        for copy in content["copies"]:
            copy["of"] = of["copy-2" if copy["name"] == "copy-1" else "copy-1"]

    rewrite(x, change)


def _names_only(x: Path, w: object) -> None:
    """The first copy's change is sent as the second's too."""
    stem = next((x / "copy-1").glob("*.safetensors")).name
    (x / "copy-2" / stem).write_bytes((x / "copy-1" / stem).read_bytes())
    redigest(x)


def _swap_tensors(path: Path) -> None:
    header, data = parts(path)
    for wanted in ("q_proj", "gate_proj"):
        same = [name for name in names_of(path) if wanted in name]
        if len(same) > 1:
            header[same[0]], header[same[1]] = header[same[1]], header[same[0]]
    write_parts(path, header, data)


def cases() -> Iterator[Case]:
    """Without and with digests made right again."""
    for thing in ("handoff in shards", "update in shards"):
        but = UNSEEN if thing == "handoff in shards" else {}
        yield Case(f"{thing}: two shards", thing, lambda x, w: _swap_shards(x / "copy-1"), but=but)
        yield Case(
            f"{thing}: two shards, digests right again",
            thing,
            _redigested(lambda x: _swap_shards(x / "copy-1")),
            but=but,
        )
        yield Case(
            f"{thing}: an index that names the other shard",
            thing,
            _redigested(lambda x: _index(x / "copy-1", _turn)),
            but=but,
        )
        yield Case(
            f"{thing}: an index that names a tensor more",
            thing,
            _redigested(
                lambda x: _index(x / "copy-1", lambda m: m.update(more=next(iter(m.values()))))
            ),
            but=but,
        )
        yield Case(
            f"{thing}: an index that lacks a tensor",
            thing,
            _redigested(lambda x: _index(x / "copy-1", lambda m: m.pop(next(iter(m))))),
            but=but,
        )
        yield Case(
            f"{thing}: an index that names a path",
            thing,
            _redigested(lambda x: _index(x / "copy-1", _elsewhere)),
            but=but,
        )
        yield Case(
            f"{thing}: a shard is missing, digests right again",
            thing,
            _redigested(lambda x: _shards(x / "copy-1")[0].unlink()),
        )
    yield Case(
        "model in shards: two shards",
        "model in shards",
        lambda x, w: _swap_shards(x),
        but={"data check": "0"},
    )
    yield Case(
        "model in shards: a path in the index",
        "model in shards",
        lambda x, w: _index(x, _elsewhere),
        but={"data check": "0"},
    )
    yield Case("handoff: two copies", "handoff", lambda x, w: _copies(x), but=UNSEEN)
    yield Case("update: two copies", "update", lambda x, w: _copies(x), but=UNSEEN)
    yield Case(
        "update: two copies, digests right again",
        "update",
        _redigested(_copies),
        expect="0",
        but={"aggregate": "1 Gate"},
        why="each copy is a well-formed change; only the server can undo T_k and see that they"
        " disagree",
    )
    yield Case(
        "update: two copies with their `of`",
        "update",
        _copies_with_of,
        expect="1 Gate",
        but={"verify": "0", "inspect": "0"},
        why="verify has no handoff to compare `of` with",
    )
    yield Case(
        "update: one change sent for both copies",
        "update",
        _names_only,
        expect="0",
        but={"aggregate": "1 Gate"},
        why="as above: agreement is the server's check",
    )
    yield Case(
        "masked update: two copies, digests right again",
        "masked update",
        _redigested(_copies),
        expect="1 Gate",
        but={"verify": "0", "inspect": "0"},
        why="masked entries look uniform; the sum does not fit",
    )
    yield Case(
        "model: two tensors of the same shape",
        "model",
        lambda x, w: _swap_tensors(x / "model.safetensors"),
        expect="0",
        but={"aggregate": "1 Gate"},
        why="it is another model; the lineage does not know its digest",
    )
    yield Case("handoff: two files of one copy", "handoff", _files, but=UNSEEN)
    yield Case(
        "update: of the published copies of another handoff",
        "update",
        _other_of,
        expect="1 Gate",
        but={"verify": "0", "inspect": "0"},
        why="verify has no handoff to compare `of` with",
    )


def _files(x: Path, w: object) -> None:
    swap(x / "copy-1" / "config.json", x / "copy-1" / "tokenizer.json")


def _other_of(x: Path, w: object) -> None:
    of = of_published(w.foreign_handoff)

    def change(content: dict) -> None:
        for copy in content["copies"]:
            copy["of"] = of[copy["name"]]

    rewrite(x, change)


def _turn(weight_map: dict[str, str]) -> None:
    files = sorted(set(weight_map.values()))
    for name, file in weight_map.items():
        weight_map[name] = files[0] if file == files[1] else files[1]


def _elsewhere(weight_map: dict[str, str]) -> None:
    name = next(iter(weight_map))
    weight_map[name] = f"../copy-2/{weight_map[name]}"
