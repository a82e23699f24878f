"""Build the documentation as a web site: `make docs`, or `python tools/build_site.py OUT`.

The pages are the Markdown files of the repository, as they are read there. They are copied into a
staging directory, in the same places, so that links between README, docs and examples keep
working; then Sphinx builds the site without a network. A broken link fails the build.
"""

from __future__ import annotations

import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
CONTENTS = {
    "Use it": [
        "docs/install",
        "docs/first-hour",
        "docs/commands",
        "docs/data",
        "docs/training",
        "docs/lora",
        "docs/masks",
        "docs/cut-handoff",
        "docs/evaluation",
        "docs/audit",
        "docs/experiments",
        "docs/reports",
        "docs/api",
        "docs/exit-codes",
    ],
    "Examples": ["examples/*/README"],
    "Extend it": ["docs/how-to/*"],
    "Understand it": [
        "docs/design",
        "docs/threat-model",
        "docs/trust",
        "docs/paper-protocol",
        "docs/paper",
        "docs/lineage",
        "docs/bundle-format",
        "docs/trust",
        "docs/architectures",
        "docs/method-defaults",
    ],
    "Project": ["docs/decisions/*", "docs/log", "docs/mutation"],
}
"""The side bar, by heading; pages that no pattern names are added to the last list."""
_LINK = re.compile(r"(\]\()((?!\w+:|#)[^)\s#]+)")


def pages() -> list[Path]:
    """Every Markdown page that the site holds, relative to the repository."""
    patterns = ("*.md", "docs/**/*.md", "examples/*/README.md")
    return sorted(page.relative_to(ROOT) for pattern in patterns for page in ROOT.glob(pattern))


def stage(target: Path) -> None:
    """Copy the pages and pictures below `target`; the README becomes the index."""
    shutil.copytree(ROOT / "docs" / "images", target / "docs" / "images")
    for page in pages():
        text = _LINK.sub(lambda link, page=page: link[1] + _resolve(page, link[2]), _read(page))
        if page == Path("README.md"):
            page, text = Path("index.md"), text + _side_bar()
        (target / page).parent.mkdir(parents=True, exist_ok=True)
        (target / page).write_text(text, encoding="utf-8")


def _read(page: Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def _resolve(page: Path, link: str) -> str:
    """A link as the site needs it: a directory is its README, and the README is the index."""
    target = (ROOT / page.parent / link).resolve()
    if target.is_dir():
        return f"{link.rstrip('/')}/README.md"
    return link.replace("README.md", "index.md") if target == ROOT / "README.md" else link


def _side_bar() -> str:
    patterns = [pattern for names in CONTENTS.values() for pattern in names]
    names = [str(page.with_suffix("")) for page in pages() if page != Path("README.md")]
    others = [name for name in names if not any(fnmatch(name, each) for each in patterns)]
    last = list(CONTENTS)[-1]
    lists = CONTENTS | {last: CONTENTS[last] + others}
    options = [":hidden:", ":glob:"]
    return "\n".join(
        "\n".join(["", "```{toctree}", *options, f":caption: {caption}", "", *entries, "```", ""])
        for caption, entries in lists.items()
    )


def build(target: Path) -> int:
    """Build the site in `target`; the exit code of Sphinx, not 0 after any warning."""
    from sphinx.cmd.build import build_main

    with TemporaryDirectory() as folder:
        stage(Path(folder))
        settings = str(Path(__file__).parent / "site_settings")
        options = ["-b", "html", "-W", "--keep-going", "-q", "-E", "-j", "2"]
        return build_main([*options, "-c", settings, "-d", f"{folder}/.cache", folder, str(target)])


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1])))
