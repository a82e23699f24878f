"""Named chat templates (`additional_chat_templates/`) are published; other nested files are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rounds import QUICK

from mpu_cli.bundle.manifest import FileEntry, HandoffManifest, PublishedCopy, encode
from mpu_cli.bundle.read import read_bundle
from mpu_cli.bundle.trusted import TrustedBundle
from mpu_cli.checkpoint.plain_file import TEMPLATES
from mpu_cli.checkpoint.side_files import MAX_TEMPLATE_BYTES, is_allowed
from mpu_cli.errors import BadBundleError

TOOL_USE = "TOOLS {% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture
def named(own_round, mpu, tmp_path) -> Path:
    """A handoff of the round's model with a template of that name."""
    folder = own_round.model / TEMPLATES
    folder.mkdir()
    (own_round.model / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'] }} w1 {% endfor %}"
    )
    (folder / "tool_use.jinja").write_text(TOOL_USE)
    (folder / "rag.jinja").write_text("RAG")
    (folder / "notes.txt").write_text("of nobody's business")
    (folder / "deeper").mkdir()
    done = mpu(
        "perturb",
        own_round.model,
        "--base",
        own_round.base,
        "-m",
        2,
        "--handoff",
        tmp_path / "hc",
        "--new-lineage",
        tmp_path / "s",
    )
    assert done.code == 0, done.err
    return tmp_path / "hc"


def inside(model: Path) -> list[str]:
    """The files in a model's folder of templates."""
    return sorted(path.name for path in (model / TEMPLATES).iterdir())


def test_named_templates_are_published(mpu, named, own_round, tmp_path):
    """Copies, aggregated models and unlearned models have them, with public modes."""
    for copy in ("copy-1", "copy-2"):
        assert inside(named / copy) == ["rag.jinja", "tool_use.jinja"]
        assert (named / copy / TEMPLATES / "tool_use.jinja").read_text() == TOOL_USE
        assert [
            (named / copy / TEMPLATES / part).stat().st_mode & 0o777
            for part in ("", "tool_use.jinja")
        ] == [0o755, 0o644]
    assert mpu("verify", named).code == 0
    data = ("--forget", own_round.forget, "--retain", own_round.retain, *QUICK)
    assert mpu("unlearn", named, *data, "--out", tmp_path / "up").code == 0
    done = mpu(
        "aggregate",
        tmp_path / "up",
        "--secret",
        tmp_path / "s",
        "--model",
        own_round.model,
        "--out",
        tmp_path / "next",
    )
    assert done.code == 0, done.err
    assert mpu("unlearn", own_round.model, *data, "--out", tmp_path / "alone").code == 0
    assert (
        inside(tmp_path / "next") == inside(tmp_path / "alone") == ["rag.jinja", "tool_use.jinja"]
    )


def test_the_template_folder_of_a_copy_is_checked(named):
    """Altered, added or removed files, a link, an empty folder or another name are refused."""

    def spoilt(change) -> str:
        place = named.with_name("spoilt")
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(named, place)
        change(place / "copy-1" / TEMPLATES)
        with pytest.raises(BadBundleError) as error:
            read_bundle(place)
        return error.value.message

    def linked(folder: Path) -> None:
        moved = folder.rename(folder.with_name("real"))
        folder.symlink_to(moved)

    assert "tool_use.jinja: its bytes do not match" in spoilt(
        lambda folder: (folder / "tool_use.jinja").write_text(TOOL_USE[::-1])
    )
    assert "more.jinja: is not listed" in spoilt(
        lambda folder: (folder / "more.jinja").write_text("x")
    )
    assert "tool_use.jinja: is listed in mpu.yaml but absent" in spoilt(
        lambda folder: (folder / "tool_use.jinja").unlink()
    )
    assert "not a regular file" in spoilt(
        lambda folder: [file.unlink() for file in folder.iterdir()]
    )
    assert "not a regular file" in spoilt(lambda folder: (folder / "deeper").mkdir())
    assert "not a regular file" in spoilt(lambda folder: (folder.with_name("other")).mkdir())
    assert "not a regular file" in spoilt(
        lambda folder: (folder / "link.jinja").symlink_to("/etc/passwd")
    )
    assert "not a regular file" in spoilt(linked)
    read_bundle(named)


@pytest.mark.parametrize(
    "name",
    [
        f"{TEMPLATES}/../x.jinja",
        f"{TEMPLATES}//x.jinja",
        f"{TEMPLATES}/a/x.jinja",
        "other/x.jinja",
        f"/{TEMPLATES}/x.jinja",
        f"{TEMPLATES}/.x.jinja",
        f"{TEMPLATES}/x.py",
        f"{TEMPLATES}/x.jinja/",
        f"{TEMPLATES}/",
        TEMPLATES,
        f"../{TEMPLATES}/x.jinja",
        f"{TEMPLATES}/model.safetensors",
        f"{TEMPLATES}\\x.jinja",
        f"{TEMPLATES}/x.tiktoken",
        f"{TEMPLATES}/config.json",
    ],
)
def test_other_nested_paths_are_refused(name):
    """A manifest may list plain names in this one folder, and no other path."""
    assert not is_allowed(name)
    manifest = HandoffManifest(
        "ab" * 16, "float32", (), (PublishedCopy("copy-1", {name: FileEntry("12" * 32, 3)}),)
    )
    with pytest.raises(BadBundleError):
        TrustedBundle("to-client").read_manifest(encode(manifest))


@pytest.mark.parametrize(("number", "size"), [(65, 1), (1, MAX_TEMPLATE_BYTES + 1)])
def test_sizes_are_bounded(named, own_round, mpu, tmp_path, number, size):
    """Too many or too large templates are refused when listed and when copied."""
    entry = FileEntry("12" * 32, size)
    files = {f"{TEMPLATES}/t{i}.jinja": entry for i in range(number)}
    manifest = HandoffManifest("ab" * 16, "float32", (), (PublishedCopy("copy-1", files),))
    with pytest.raises(BadBundleError, match="chat templates, or one larger than"):
        TrustedBundle("to-client").read_manifest(encode(manifest))
    for i in range(number):
        (own_round.model / TEMPLATES / f"t{i}.jinja").write_text("x" * size)
    places = (
        "--base",
        own_round.base,
        "--handoff",
        tmp_path / "big",
        "--new-lineage",
        tmp_path / "t",
    )
    done = mpu("perturb", own_round.model, "-m", 2, *places)
    assert done.code == 3
    assert not (tmp_path / "big").exists()
