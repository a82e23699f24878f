"""What a path is that somebody gave, and what to do where something else was wanted.

Users hold many things that are nearly a model or nearly a bundle: an adapter, an archive, a
directory one level too high. The error names what is there and the way on, instead of what is
missing. Names and first bytes are looked at, no more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from mpu_cli.errors import BadInputError, MpuError

MODEL, HANDOFF, UPDATE, BUNDLE, SECRET, RECORD = (
    "model",
    "handoff",
    "update",
    "bundle",
    "secret",
    "record",
)
ANY = "any"
_NAMED = {
    MODEL: "a model directory",
    HANDOFF: "a handoff",
    UPDATE: "an update",
    BUNDLE: "a handoff or an update",
    SECRET: "a server's secret directory",
    RECORD: "a record of an evaluation",
}
_MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
"""How gzip, bzip2, xz and zstd begin."""
_CONVERT = "convert to safetensors: load once in transformers and save_pretrained"
_KIND = re.compile(rb'^"?kind"?: "?(handoff|update)"?$', re.MULTILINE)
_UNFINISHED = (
    re.compile(r"\.(.+)\.[A-Za-z0-9]{6}"),  # rsync
    re.compile(r"(.+)\.(?:part|partial|filepart|crdownload|download|incomplete|aria2|tmp)"),
    re.compile(r"\.?~?(.+)~"),
)
_GUIDE = {
    UPDATE: (
        "mpu eval measures it with --handoff DIR beside it; mpu aggregate makes a model of it, with"
        " the server's secret"
    ),
    SECRET: "it never leaves the server; perturb and aggregate take it as --secret",
    RECORD: "mpu compare and mpu inspect read it",
}


@dataclass(frozen=True, slots=True)
class Thing:
    """What lies at a path."""

    kind: str
    """One of the kinds above, or a word of this module's for something that no command takes."""
    about: str
    """`is …` or `holds …`, for a message."""
    remedy: str | None
    """What to do, whatever was wanted."""


def recognise(path: Path) -> Thing:
    """Say what lies at a path; nothing is believed of what the files hold.

    Raises:
        BadInputError: two kinds lie in one directory, so that no command could say which one it
            checked.
    """
    if not path.exists():
        return Thing("missing", "no such file or directory", "check the path")
    return _directory(path) if path.is_dir() else _file(path)


def instead_of(path: Path, wanted: str, error: type[MpuError] = BadInputError) -> MpuError:
    """The error for a path that is not what was wanted, ready to be raised."""
    if not path.exists():
        what = {MODEL: "no such model directory", SECRET: "no such secret directory"}.get(
            wanted, "no such directory"
        )
        more = {
            MODEL: ", or a Hub id as org/name[@revision]",
            SECRET: ", the one that perturb wrote as --secret",
        }.get(wanted, "")
        return error(f"{path}: {what}", f"give {_NAMED[wanted]}{more}")
    thing = recognise(path)
    remedy = thing.remedy or (_GUIDE.get(thing.kind) if wanted in {MODEL, ANY} else None)
    if thing.kind == HANDOFF and wanted == MODEL:
        remedy = f"give one model directory; one of its copies is {_shell(path / 'copy-1')}"
    elif wanted in {HANDOFF, UPDATE, BUNDLE} and thing.kind in _NAMED:
        remedy = (
            "give the directory that the model owner sent"
            if wanted == HANDOFF
            else "give the directory that the client sent back"
        )
    wrong = "" if wanted == ANY or thing.kind == "outer" else f", expected {_NAMED[wanted]}"
    return error(f"{path}: {thing.about}{wrong}", remedy)


def in_place_of_weights(path: Path, error: type[MpuError]) -> MpuError:
    """The error for a directory with a config.json and no safetensors, ready to be raised."""
    names = _names(path)
    for test in (_adapter, _unfinished, _gguf, _pickles):
        thing = test(path, names)
        if thing is not None:
            return error(f"{path}: {thing.about}", thing.remedy)
    return error(
        f"{path}: neither model.safetensors nor model.safetensors.index.json",
        "were the weights copied or downloaded completely?",
    )


def is_tar(path: Path) -> bool:
    """Whether a path is a tar file that is not compressed, by its first bytes or else its name."""
    head = _head(path, 512)
    return head[257:262] == b"ustar" or (
        path.name.lower().endswith(".tar") and path.is_file() and not head.startswith(_PACKED)
    )


def kinds_of(directory: Path) -> list[str]:
    """Every kind that a directory claims to be, by the names in it."""
    names = _names(directory)
    found = []
    if "secret.yaml" in names:
        found.append(SECRET)
    if "mpu.yaml" in names:
        match = _KIND.search(_head(directory / "mpu.yaml", 16 << 20))
        found.append(match[1].decode() if match else BUNDLE)
    if names.issuperset(("items.jsonl", "summary.json")):
        found.append(RECORD)
    if names.intersection(_MODEL_FILES):
        found.append(MODEL)
    return found


def require_one_kind(directory: Path) -> str | None:
    """The one kind that a directory is, None if it is none.

    Raises:
        BadInputError: it claims to be two.
    """
    found = kinds_of(directory)
    if len(found) > 1:
        both = " and ".join(_NAMED[kind] for kind in found)
        raise BadInputError(
            f"{directory}: holds the files of {both}",
            "each belongs in a directory of its own; do not use it before you know who mixed them",
        )
    return found[0] if found else None


def _directory(path: Path) -> Thing:
    kind = require_one_kind(path)
    if kind is not None:
        return Thing(kind, f"is {_NAMED[kind]}", None)
    names = _names(path)
    if not names:
        return Thing("empty", "is an empty directory", "was it copied or unpacked completely?")
    for test in (_adapter, _hub_cache, _gguf, _copies, _inner, _unfinished, _pickles, _archives):
        thing = test(path, names)
        if thing is not None:
            return thing
    return Thing(
        "unknown",
        "holds no config.json, and nothing else that mpu knows",
        "mpu works on model directories, handoffs, updates and secret directories",
    )


def _adapter(path: Path, names: frozenset[str]) -> Thing | None:
    if "adapter_config.json" not in names:
        return None
    load = "AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).merge_and_unload().save_pretrained('merged')"
    return Thing(
        "adapter",
        "is a PEFT adapter without its model",
        "merge it first, and save the model's tokenizer beside the result: "
        f'python -c "import sys; from peft import AutoPeftModelForCausalLM; {load}" {_shell(path)}',
    )


def _hub_cache(path: Path, names: frozenset[str]) -> Thing | None:
    snapshots = path if path.name == "snapshots" else path / "snapshots"
    if not snapshots.parent.name.startswith("models--") or not snapshots.is_dir():
        return None
    found = sorted(snapshots.iterdir())
    main = _head(snapshots.parent / "refs" / "main", 100).decode(errors="replace").strip()
    chosen = next((item for item in found if item.name == main), found[-1] if found else None)
    repository = "/".join(snapshots.parent.name.split("--")[1:])
    name = (
        f"the Hub id {repository}"
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository)
        else "the Hub id"
    )
    return Thing(
        "hub cache",
        "is a repository in the Hub's cache, not a model directory",
        f"give its snapshot: {_shell(chosen)}"
        if chosen is not None
        else f"it has no snapshot: download it again, or give {name}",
    )


def _gguf(path: Path, names: frozenset[str]) -> Thing | None:
    found = sorted(name for name in names if name.endswith(".gguf"))
    return _gguf_thing(path, found[0], "holds only GGUF files") if found else None


def _gguf_thing(directory: Path, name: str, about: str) -> Thing:
    return Thing(
        "gguf",
        about,
        f"dequantise it in transformers: AutoModelForCausalLM.from_pretrained({str(directory)!r}, gguf_file={name!r})"
        ".save_pretrained('model'), and the same with AutoTokenizer (pip install gguf); better: take the model it was made from",
    )


def _copies(path: Path, names: frozenset[str]) -> Thing | None:
    copies = sorted(name for name in names if re.fullmatch(r"copy-\d+", name))
    if not copies:
        return None
    return Thing(
        "copies",
        f"holds copies ({', '.join(copies[:3])}{' …' if len(copies) > 3 else ''}) and no mpu.yaml",
        f"for one model give {_shell(path / copies[0])}; trained copies become an update by mpu diff, "
        "those of unlearn --copy by unlearn --finish",
    )


def _inner(path: Path, names: frozenset[str]) -> Thing | None:
    """A directory one level too high: what unpacking often makes."""
    for name in sorted(names)[:100]:
        inner = path / name
        found = kinds_of(inner) if inner.is_dir() else []
        if len(found) == 1:
            return Thing(
                "outer",
                f"is not itself {_NAMED[found[0]]}: that is {inner}",
                f"give {_shell(inner)}",
            )
    return None


def _unfinished(path: Path, names: frozenset[str]) -> Thing | None:
    """What an interrupted transfer leaves beside, or instead of, the file itself."""
    for name in sorted(names):
        whole = unfinished_name(name)
        if whole is not None and whole not in names:
            return Thing(
                "unfinished",
                f"holds {name}, which an unfinished transfer of {whole} left, or a backup",
                f"copy {whole} again",
            )
    return None


def unfinished_name(name: str) -> str | None:
    """The file that an interrupted rsync, scp, wget, curl or browser was writing, or None for any other name."""
    for form in _UNFINISHED:
        match = form.fullmatch(name)
        if match is not None:
            return match[1]
    return None


def _pickles(path: Path, names: frozenset[str]) -> Thing | None:
    found = sorted(name for name in names if name.endswith(_PICKLES))
    if not found:
        return None
    return Thing(
        "pickles",
        f"holds only pickled weights ({found[0]}); pickles can run code and are never read",
        _CONVERT,
    )


def _archives(path: Path, names: frozenset[str]) -> Thing | None:
    for name in sorted(names)[:100]:
        if (path / name).is_file() and (thing := _archive(path / name)) is not None:
            return Thing("archive", f"holds an archive ({name}) that is not unpacked", thing.remedy)
    return None


def _file(path: Path) -> Thing:
    name, directory = path.name, f"give the directory: {_shell(path.parent)}"
    if name in {"mpu.yaml", "mpu.yaml.sig"}:
        return Thing(
            "manifest", "is the manifest of a handoff or an update, not its directory", directory
        )
    if name == "secret.yaml":
        return Thing("secret file", "is a file of a server's secret directory", directory)
    if name in _MODEL_FILES or name.endswith(".safetensors"):
        return Thing("model file", "is a file of a model, not its directory", directory)
    if name.endswith(".gguf") or _head(path, 4) == b"GGUF":
        return _gguf_thing(path.parent, name, "is a GGUF file")
    if name.endswith(_PICKLES):
        return Thing("pickle", "is a pickle, which can run code and is never read", _CONVERT)
    return _archive(path) or Thing("file", "is a file", "give a directory")


def _archive(path: Path) -> Thing | None:
    head = _head(path, 512)
    if head.startswith(b"PK\x03\x04"):
        return Thing("archive", "is a zip archive", f"unpack it first: unzip {_shell(path)}")
    if is_tar(path) or head.startswith(_PACKED):
        return Thing("archive", "is an archive", f"unpack it first: tar -xf {_shell(path)}")
    return None


def _shell(path: Path) -> str:
    """A path as it is typed in a command."""
    return quote(str(path))


def _names(path: Path) -> frozenset[str]:
    try:
        return frozenset(item.name for item in path.iterdir())
    except OSError:
        return frozenset()


def _head(path: Path, size: int) -> bytes:
    """The first bytes of a plain file, none of anything else."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""
