"""MODEL as users write it: a directory or a Hub id, offline from a prepared cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlparse

import pytest
from safetensors.torch import load_file, save_file

from mpu_cli.checkpoint.locate import locate
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """
import json, sys
from mpu_cli.checkpoint.locate import locate
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError
found = {}
for name in sys.argv[1:]:
    try:
        located = locate(name)
        found[name] = [str(located.path), located.source]
    except BadModelError as error:
        found[name] = [error.message, error.hint]
print(json.dumps(found))
"""


def make_cache(home: Path, model: Path, repo: str = "org/tiny") -> Path:
    """A cache in the form of huggingface_hub: refs/main, and a snapshot of links to blobs."""
    root = home / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for folder in (root / "refs", root / "blobs", snapshot):
        folder.mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(model.iterdir())):
        shutil.copy(file, root / "blobs" / f"{number:064x}")
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / f"{number:064x}")
    return snapshot


@pytest.fixture
def look_up(tmp_path, tiny_pair):
    """Locate names in a separate process, offline, with a prepared cache.

    The Hub's library reads its settings only once.
    """
    snapshot = make_cache(tmp_path / "home", tiny_pair("llama").model)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_HUB_CACHE", None)

    def run(*names: str) -> dict[str, list[str | None]]:
        done = subprocess.run(
            [sys.executable, "-c", CODE, *names],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    run.snapshot = snapshot
    return run


def test_a_hub_id_is_found_in_the_cache_and_its_commit_resolved(look_up):
    """org/name, hf://org/name and @revision (branch or commit) give the snapshot and its commit."""
    names = [
        "org/tiny",
        "hf://org/tiny",
        "org/tiny@main",
        "hf://org/tiny@main",
        f"org/tiny@{COMMIT}",
    ]
    assert look_up(*names) == {
        name: [str(look_up.snapshot), f"org/tiny@{COMMIT}"] for name in names
    }


def test_an_id_that_is_not_cached_is_one_clear_line(look_up):
    """Offline, the hint says how to download a missing model or revision."""
    for name, (message, hint) in look_up(
        "org/other", "hf://org/tiny@v2", "org/tiny@" + "f" * 40
    ).items():
        assert message is not None
        assert message.startswith(f"{name}: ")
        assert "\n" not in message
        assert hint is not None
        assert "hf download org/" in hint


def test_an_existing_path_wins_over_an_id(look_up, tmp_path):
    """A directory org/tiny below the working directory is that directory, not the Hub's model."""
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    assert look_up("org/tiny") == {"org/tiny": ["org/tiny", None]}


@pytest.mark.parametrize(
    "name",
    [
        "/no/such",
        "./org/tiny",
        "../org/tiny",
        "tiny",
        "a/b/c",
        "org/ti ny",
        "s3://org/tiny",
        "org/tiny@",
    ],
)
def test_neither_a_path_nor_an_id_is_refused(name, tmp_path, monkeypatch):
    """The Hub is not asked, and the hint names both forms."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadModelError) as caught:
        locate(name)
    assert caught.value.message == f"{name}: no such model directory"
    assert "org/name" in (caught.value.hint or "")


class Hub(BaseHTTPRequestHandler):
    """A Hub on this machine: org/NAME is the folder NAME of `root`.

    `refused` maps names to an HTTP status and an error code.
    """

    protocol_version = "HTTP/1.1"
    root: Path
    refused: ClassVar[dict[str, tuple[int, str]]] = {}
    given: ClassVar[list[str]] = []
    """Files that were sent, as NAME/file."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._send(b"")

    def do_GET(self) -> None:
        """Answer with a body."""
        self._send(self._content())

    def _parts(self) -> tuple[str, str, Path]:
        """The endpoint (api, tree or resolve), the repository, and the file."""
        path = unquote(urlparse(self.path).path).lstrip("/").removeprefix("api/models/").split("/")
        kind = "tree" if "tree" in path else "resolve" if "resolve" in path else "api"
        return kind, path[1], self.root / path[1] / path[-1]

    def _content(self) -> bytes:
        kind, repo, file = self._parts()
        if repo in self.refused:
            return b"{}"
        files = sorted((self.root / repo).iterdir())
        if kind == "tree":
            listed = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f"{n:040x}"}
                for n, f in enumerate(files)
            ]
            return json.dumps(listed).encode()
        if kind == "api":
            return json.dumps(
                {
                    "id": f"org/{repo}",
                    "sha": COMMIT,
                    "siblings": [{"rfilename": f.name} for f in files],
                }
            ).encode()
        self.given.append(f"{repo}/{file.name}")
        return file.read_bytes()

    def _send(self, data: bytes) -> None:
        kind, repo, file = self._parts()
        status, code = self.refused.get(repo, (200, ""))
        headers = {"X-Repo-Commit": COMMIT, "X-Error-Code": code, "Content-Length": str(len(data))}
        if kind == "resolve" and file.exists():
            headers |= {
                "ETag": f'"{sha256(file.read_bytes()).hexdigest()}"',
                "Content-Length": str(file.stat().st_size),
            }
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def hub(root: Path, refused: dict[str, tuple[int, str]] | None = None) -> Iterator[str]:
    """Serve `root` and yield the address."""
    handler = type("Handler", (Hub,), {"root": root, "refused": refused or {}})
    Hub.given.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _ask(
    home: Path, endpoint: str, *names: str, offline: bool = False
) -> dict[str, list[str | None]]:
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": str(int(offline)),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    environment = {**os.environ, **settings}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", CODE, *names],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


SHARDS = {
    "usual": ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    "six-digits": ["model-00001-of-000002.safetensors", "model-00002-of-000002.safetensors"],
    "number-at-the-end": ["model.safetensors-00001-of-00002", "model.safetensors-00002-of-00002"],
    "other-words": ["weights part 1 [a].safetensors", "zzz.safetensors"],
    "one-file": ["model.safetensors"],
}
OTHERS = (
    "consolidated.safetensors",
    "pytorch_model.bin",
    "weights part 1 a.safetensors",
    "modeling_evil.py",
)


def test_the_index_decides_which_files_are_fetched(tmp_path, tiny_pair):
    """Shards of any name are downloaded, other weights are not.

    The snapshot is then found offline, and opens.
    """
    tensors = load_file(tiny_pair("llama").model / "model.safetensors")
    keys = sorted(tensors)
    for repo, shards in SHARDS.items():
        served = Path(shutil.copytree(tiny_pair("llama").model, tmp_path / "served" / repo))
        (served / "model.safetensors").unlink()
        place = {key: shards[number * len(shards) // len(keys)] for number, key in enumerate(keys)}
        for shard in shards:
            save_file(
                {key: tensors[key] for key in keys if place[key] == shard},
                served / shard,
                metadata={"format": "pt"},
            )
        (served / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": place})
        )
        for other in OTHERS:
            (served / other).write_bytes(b"x")
    names = [f"org/{repo}" for repo in SHARDS]
    with hub(tmp_path / "served") as endpoint:
        found = _ask(tmp_path, endpoint, *names)
    assert {name: source for name, (_, source) in found.items()} == {
        name: f"{name}@{COMMIT}" for name in names
    }, found
    weights = {
        name for name in Hub.given if "safetensors" in name or name.endswith((".bin", ".py"))
    }
    assert weights == {
        f"{repo}/{name}"
        for repo, shards in SHARDS.items()
        for name in (*shards, "model.safetensors.index.json")
    }
    assert _ask(tmp_path, endpoint, *names, offline=True) == found
    for place, _ in found.values():
        assert open_checkpoint(Path(str(place))).tensors.keys() == tensors.keys()


ANSWERS = {
    "gated": ((403, "GatedRepo"), "is gated on the Hub", "hf auth login"),
    "unknown": ((404, "RepoNotFound"), "no such model, or it is private", "check the name"),
    "no-revision": ((404, "RevisionNotFound"), "has no revision v1", "a branch, a tag or a commit"),
    "broken": ((500, ""), "the Hub cannot be reached", "hf download"),
}
INDEXED = (
    "../../refs/main.safetensors",
    "/etc/model.safetensors",
    "a/b.safetensors",
    ".safetensors.x",
    "x.bin",
    "",
)


def test_errors_of_the_hub_are_translated_and_its_index_is_not_trusted(tmp_path, tiny_pair):
    """One line without an address, and a hint.

    No path, hidden file or pickle is requested.
    """
    for number, shard in enumerate(INDEXED):
        served = Path(
            shutil.copytree(tiny_pair("llama").model, tmp_path / "served" / f"evil{number}")
        )
        (served / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"x": shard}})
        )
    with hub(
        tmp_path / "served", {name: answer for name, (answer, _, _) in ANSWERS.items()}
    ) as endpoint:
        found = _ask(
            tmp_path,
            endpoint,
            *(f"org/{name}@v1" for name in ANSWERS),
            *(f"org/evil{n}" for n in range(len(INDEXED))),
        )
    for name, (_, words, remedy) in ANSWERS.items():
        message, hint = map(str, found[f"org/{name}@v1"])
        assert words in message and remedy in hint, (message, hint)
        assert not any(
            theirs in message for theirs in ("http", "\n", "local_files_only", "repo_type")
        )
    for number, _ in enumerate(INDEXED):
        assert "not a plain safetensors file name" in str(found[f"org/evil{number}"][0])
        assert not any(
            name.startswith(f"evil{number}/") and name.endswith("model.safetensors")
            for name in Hub.given
        )


def test_an_unreachable_hub_gives_a_hint(tmp_path):
    """Without a server, the message has no text of the HTTP library."""
    message, hint = _ask(tmp_path, "http://127.0.0.1:9", "org/tiny")["org/tiny"]
    assert "the Hub cannot be reached" in str(message)
    assert "hf download org/tiny" in str(hint)
