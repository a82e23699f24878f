"""Names that leave the directory, hide, deceive or occur twice: ../, NUL, case, Unicode."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from testkit.case import UNSEEN, Case
from testkit.damage import manifest_of, redigest, rewrite, write_manifest

LISTED = {
    "../": "../copy-2/config.json",
    "../ in the middle": "additional_chat_templates/../../../x",
    "an absolute path": "/etc/passwd",
    "a backslash": "..\\config.json",
    "a drive": "C:config.json",
    "a NUL": "config.json\0.txt",
    "a leading dot": ".config.json",
    "a line break": "config\n.json",
    "a terminal code": "\x1b[2Jconfig.json",
    "text that runs right to left": "config\u202enosj.json",
    "a space of no width": "config\u200b.json",
    "a letter with an accent": "modèle.json",
    "300 letters": "m" * 300,
    "nothing": "",
    "a dot": ".",
    "a folder": "deep/config.json",
    "a slash at the end": "config.json/",
    "a Windows device": "NUL",
    "a percent code": "%2e%2e%2fconfig.json",
    "a pickle": "pytorch_model.bin",
    "code": "modeling_llama.py",
}
COPIES = {
    "../": "../copy-1",
    "an absolute path": "/tmp/copy-1",
    "a NUL": "copy-1\0",
    "0": "copy-0",
    "a leading zero": "copy-01",
    "10,000": "copy-10000",
    "a capital": "Copy-1",
    "an Arabic digit": "copy-١",
    "a line break": "copy-1\n",
    "nothing": "",
}


def _list(name: str):
    def change(content: dict) -> None:
        files = content["copies"][0]["files"]
        files[name] = files.pop("config.json", None) or files.pop(next(iter(files)))

    return lambda x, w: rewrite(x, change)


def _rename_copy(name: str):
    def change(content: dict) -> None:
        content["copies"][0]["name"] = name

    return lambda x, w: rewrite(x, change)


def _present(name: str, listed: bool):
    """A file more that lies in the first copy, listed or not."""

    def damage(x: Path, w: object) -> None:
        (x / "copy-1" / name).write_bytes(b"x")
        if listed:
            redigest(x)

    return damage


def _twins(first: str, second: str):
    """Two names that a file system without case or Unicode forms takes for one."""

    def damage(x: Path, w: object) -> None:
        copy = x / "copy-1"
        data = (copy / "config.json").read_bytes()
        for name in (first, second):
            (copy / name).write_bytes(data)
        redigest(x)

    return damage


def _case_fold_copies(x: Path, w: object) -> None:
    content = manifest_of(x)
    content["copies"].append({**content["copies"][0], "name": "COPY-1"})
    write_manifest(x, content)


def cases() -> Iterator[Case]:
    """Listed in a manifest, and present on the disk."""
    for thing in ("handoff", "update"):
        for said, name in LISTED.items():
            yield Case(f"{thing}: lists {said}", thing, _list(name))
        for said, name in COPIES.items():
            yield Case(f"{thing}: a copy named {said}", thing, _rename_copy(name))
        yield Case(f"{thing}: two copies that differ in case", thing, _case_fold_copies)
    for name in (".hidden", "model.safetensors.partial", "Config.json", "x\x1b[2J", "x\n", "é"):
        yield Case(f"handoff: an unlisted {name!r}", "handoff", _present(name, False), but=UNSEEN)
        yield Case(f"update: an unlisted {name!r}", "update", _present(name, False), but=UNSEEN)
    for name in ("model2.safetensors", "pytorch_model.bin", "modeling_x.py", "README.md", "x.sh"):
        yield Case(f"handoff: a listed {name}", "handoff", _present(name, True))
        yield Case(f"update: a listed {name}", "update", _present(name, True))
    composed, decomposed = (unicodedata.normalize(form, "é.json") for form in ("NFC", "NFD"))
    yield Case("handoff: two forms of é", "handoff", _twins(composed, decomposed))
    yield Case(
        "handoff: config.json and CONFIG.JSON", "handoff", _twins("config.json", "CONFIG.JSON")
    )
