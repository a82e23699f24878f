"""Recognise what a path holds, and say what to do if the command needs something else.

Users have many things that are almost a model or a bundle: an adapter, an archive, a directory one
level too high. The error names what is there and how to proceed, not what is missing. This module
looks only at names and first bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from mpu_cli.errors import BadInputError, MpuError
from mpu_cli.registry import nearest

MODEL, HANDOFF, UPDATE, BUNDLE = "model", "handoff", "update", "bundle"
SECRET, RECORD, RUN = "secret", "record", "run"
REPORTED, ANY = "reported", "any"
"""What `mpu report` or `mpu inspect` can read."""
_NAMED = {
    MODEL: "a model directory",
    HANDOFF: "a handoff",
    UPDATE: "an update",
    BUNDLE: "a handoff or an update",
    SECRET: "a server's secret directory",
    RECORD: "an evaluation record",
    RUN: "a directory of mpu run's results",
    REPORTED: "an evaluation record, a server's secret directory or mpu run's results",
}
_MODEL_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5")
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
"""The first bytes of gzip, bzip2, xz and zstd files."""
_CONVERT = "convert it to safetensors: load it in transformers, then call save_pretrained"
_KIND = re.compile(rb'^"?kind"?: "?(handoff|update)"?$', re.MULTILINE)
_UNFINISHED = (
    re.compile(r"\.(.+)\.[A-Za-z0-9]{6}"),  # rsync
    re.compile(r"(.+)\.(?:part|partial|filepart|crdownload|download|incomplete|aria2|tmp)"),
    re.compile(r"\.?~?(.+)~"),
)
_GUIDE = {
    UPDATE: (
        "evaluate it with mpu eval --handoff DIR; the server makes a model of it with mpu aggregate"
    ),
    SECRET: "keep it on the server; give it to mpu perturb and mpu aggregate as --secret",
    RECORD: "read it with mpu inspect, mpu compare or mpu report",
    RUN: "read it with mpu report",
}

_PAGE_OF = {
    MODEL: "evaluate it first: mpu eval MODEL --forget FILE --record DIR",
    HANDOFF: "make a page of its audit: mpu audit handoff … --report FILE.html",
    UPDATE: "make a page of its audit: mpu audit update … --report FILE.html",
}


@dataclass(frozen=True, slots=True)
class Thing:
    """What lies at a path."""

    kind: str
    """One of the kinds above, or another word for something that no command accepts."""
    about: str
    """`is …` or `holds …`, for a message."""
    hint: str | None
    """What to do, whatever the command needs."""


def recognise(path: Path) -> Thing:
    """Say what lies at a path, without trusting the content of its files.

    Raises:
        BadInputError: a directory holds two kinds, so a check of it would be ambiguous.
    """
    if not path.exists():
        return Thing("missing", "no such file or directory", "check the path")
    return _directory(path) if path.is_dir() else _file(path)


def instead_of(path: Path, wanted: str, error: type[MpuError] = BadInputError) -> MpuError:
    """Return the error for a path that is not of the wanted kind."""
    if not path.exists():
        what = {MODEL: "no such model directory", SECRET: "no such secret directory"}.get(
            wanted, "no such directory"
        )
        more = {
            MODEL: ", or a Hub id as org/name[@revision]",
            SECRET: ": perturb created it as --secret",
        }.get(wanted, "")
        return error(f"{path}: {what}", near_missing(path) or f"give {_NAMED[wanted]}{more}")
    thing = recognise(path)
    hint = thing.hint or (_GUIDE.get(thing.kind) if wanted in {MODEL, ANY} else None)
    if thing.kind == HANDOFF and wanted == MODEL:
        hint = f"give one model directory, for instance the copy {_shell(path / 'copy-1')}"
    elif wanted in {HANDOFF, UPDATE, BUNDLE} and thing.kind in _NAMED:
        hint = {
            HANDOFF: "give the directory that the model owner sent",
            UPDATE: "give the update: the directory that mpu unlearn, diff or mask update wrote",
        }.get(wanted, "give the directory that the client sent back")
    elif wanted == REPORTED:
        hint = hint or _PAGE_OF.get(thing.kind)
    elif wanted == SECRET and hint is None:
        hint = "give the directory that mpu perturb created as --secret"
    wrong = "" if wanted == ANY or thing.kind == "outer" else f", expected {_NAMED[wanted]}"
    return error(f"{path}: {thing.about}{wrong}", hint)


def near_missing(path: Path) -> str | None:
    """The hint that names what lies beside a missing path under almost its name.

    A round that travels as a tar file has no directory: `to-server` is then `to-server.tar`.
    """
    packed = path.with_name(f"{path.name}.tar") if path.name else path
    if packed.is_file():
        return f"did you mean {packed}?"
    beside = path.parent
    known = _names(beside) if beside.is_dir() else set[str]()
    match = nearest(path.name, [name for name in known if not name.startswith(".")], cutoff=0.8)
    return None if match is None else f"did you mean {beside / match}?"


def in_place_of_weights(path: Path, error: type[MpuError]) -> MpuError:
    """Return the error for a directory with a config.json and no safetensors files."""
    names = _names(path)
    for test in (_adapter, _unfinished, _gguf, _pickles):
        thing = test(path, names)
        if thing is not None:
            return error(f"{path}: {thing.about}", thing.hint)
    return error(
        f"{path}: neither model.safetensors nor model.safetensors.index.json",
        "copy or download the weights again",
    )


def is_tar(path: Path) -> bool:
    """Whether a path is an uncompressed tar file, judged by its first bytes or by its name."""
    head = _head(path, 512)
    return head[257:262] == b"ustar" or (
        path.name.lower().endswith(".tar") and path.is_file() and not head.startswith(_PACKED)
    )


def kinds_of(directory: Path) -> list[str]:
    """Every kind that a directory claims to be, judged by its file names."""
    names = _names(directory)
    kinds = []
    if "secret.yaml" in names:
        kinds.append(SECRET)
    if "mpu.yaml" in names:
        match = _KIND.search(_head(directory / "mpu.yaml", 16 << 20))
        kinds.append(match[1].decode() if match else BUNDLE)
    if names.issuperset(("items.jsonl", "summary.json")):
        kinds.append(RECORD)
    if names.issuperset(("runs.csv", "provenance.json")):
        kinds.append(RUN)
    if names.intersection(_MODEL_FILES):
        kinds.append(MODEL)
    return kinds


def require_one_kind(directory: Path) -> str | None:
    """The one kind of a directory, or None.

    Raises:
        BadInputError: it claims to be of several kinds.
    """
    kinds = kinds_of(directory)
    if len(kinds) > 1:
        several = " and ".join(_NAMED[kind] for kind in kinds)
        raise BadInputError(
            f"{directory}: holds the files of {several}",
            "find out who mixed them, then move each to its own directory",
        )
    return kinds[0] if kinds else None


def _directory(path: Path) -> Thing:
    kind = require_one_kind(path)
    if kind is not None:
        return Thing(kind, f"is {_NAMED[kind]}", None)
    names = _names(path)
    if not names:
        return Thing("empty", "is an empty directory", "copy or unpack it again")
    for test in (_adapter, _hub_cache, _gguf, _copies, _inner, _unfinished, _pickles, _archives):
        thing = test(path, names)
        if thing is not None:
            return thing
    return Thing(
        "unknown",
        "holds no config.json and no other file that mpu knows",
        "give a model directory, a handoff, an update, a secret directory or an evaluation record",
    )


def _adapter(path: Path, names: frozenset[str]) -> Thing | None:
    if "adapter_config.json" not in names:
        return None
    merge = (
        "import sys; from peft import AutoPeftModelForCausalLM; AutoPeftModelForCausalLM"
        ".from_pretrained(sys.argv[1]).merge_and_unload().save_pretrained('merged')"
    )
    return Thing(
        "adapter",
        "is a PEFT adapter without its model",
        "merge it first, and save the model's tokenizer beside the result:"
        f' python -c "{merge}" {_shell(path)}',
    )


def _hub_cache(path: Path, names: frozenset[str]) -> Thing | None:
    snapshots = path if path.name == "snapshots" else path / "snapshots"
    if not snapshots.parent.name.startswith("models--") or not snapshots.is_dir():
        return None
    commits = sorted(snapshots.iterdir())
    main = _head(snapshots.parent / "refs" / "main", 100).decode(errors="replace").strip()
    chosen = next((item for item in commits if item.name == main), commits[-1] if commits else None)
    repository = "/".join(snapshots.parent.name.split("--")[1:])
    known = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repository)
    return Thing(
        "hub cache",
        "is a repository in the Hub cache, not a model directory",
        f"give its snapshot: {_shell(chosen)}"
        if chosen is not None
        else f"download it again, or give the Hub id{f' {repository}' if known else ''}",
    )


def _gguf(path: Path, names: frozenset[str]) -> Thing | None:
    files = sorted(name for name in names if name.endswith(".gguf"))
    return _gguf_thing(path, files[0], "holds only GGUF files") if files else None


def _gguf_thing(directory: Path, name: str, about: str) -> Thing:
    return Thing(
        "gguf",
        about,
        "use the original model if you can; or dequantise this one in transformers (pip install"
        f" gguf): AutoModelForCausalLM.from_pretrained({str(directory)!r}, gguf_file={name!r})"
        ".save_pretrained('model'), then the same with AutoTokenizer",
    )


def _copies(path: Path, names: frozenset[str]) -> Thing | None:
    copies = sorted(name for name in names if re.fullmatch(r"copy-\d+", name))
    if not copies:
        return None
    return Thing(
        "copies",
        f"holds copies ({', '.join(copies[:3])}{' …' if len(copies) > 3 else ''}) and no mpu.yaml",
        f"give one model, for instance {_shell(path / copies[0])}; make an update of trained copies"
        " with mpu diff, or with mpu unlearn --finish after mpu unlearn --copy",
    )


def _inner(path: Path, names: frozenset[str]) -> Thing | None:
    """Recognise a directory one level too high, which unpacking often creates."""
    for name in sorted(names)[:100]:
        inner = path / name
        kinds = kinds_of(inner) if inner.is_dir() else []
        if len(kinds) == 1:
            about = f"is not {_NAMED[kinds[0]]}, but {inner} inside it is"
            return Thing("outer", about, f"give {_shell(inner)}")
    return None


def _unfinished(path: Path, names: frozenset[str]) -> Thing | None:
    """Recognise a file that an interrupted transfer left instead of the complete one."""
    for name in sorted(names):
        whole = unfinished_name(name)
        if whole is not None and whole not in names:
            about = f"holds {name}, a partial transfer or a backup of {whole}"
            return Thing("unfinished", about, f"copy {whole} again")
    return None


def unfinished_name(name: str) -> str | None:
    """The file that an interrupted rsync, scp, wget, curl or browser was writing, or None."""
    for form in _UNFINISHED:
        match = form.fullmatch(name)
        if match is not None:
            return match[1]
    return None


def _pickles(path: Path, names: frozenset[str]) -> Thing | None:
    pickles = sorted(name for name in names if name.endswith(_PICKLES))
    if not pickles:
        return None
    about = f"holds only pickled weights ({pickles[0]}); mpu reads no pickles: they can run code"
    return Thing("pickles", about, _CONVERT)


def _archives(path: Path, names: frozenset[str]) -> Thing | None:
    for name in sorted(names)[:100]:
        if (path / name).is_file() and (thing := _archive(path / name)) is not None:
            return Thing("archive", f"holds an archive ({name}) that is not unpacked", thing.hint)
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
        return Thing("pickle", "is a pickle, which mpu never reads: it can run code", _CONVERT)
    return _archive(path) or Thing("file", "is a file", "give a directory")


def _archive(path: Path) -> Thing | None:
    head = _head(path, 512)
    if head.startswith(b"PK\x03\x04"):
        return Thing("archive", "is a zip archive", f"unpack it first: unzip {_shell(path)}")
    if is_tar(path) or head.startswith(_PACKED):
        return Thing("archive", "is an archive", f"unpack it first: tar -xf {_shell(path)}")
    return None


def _shell(path: Path) -> str:
    """A path quoted for a shell."""
    return quote(str(path))


def _names(path: Path) -> frozenset[str]:
    try:
        return frozenset(item.name for item in path.iterdir())
    except OSError:
        return frozenset()


def _head(path: Path, size: int) -> bytes:
    """The first bytes of a regular file, or nothing for anything else."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""
