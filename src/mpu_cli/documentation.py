"""The addresses of documentation pages, for messages.

They open in an installation from a wheel and in a source checkout.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent
_FOLDERS = (_PACKAGE / "docs", _PACKAGE.parents[1] / "docs")
"""The docs in an installed wheel, and in a checkout."""


def folders() -> tuple[Path, ...]:
    """Where the documentation may be: in an installed wheel, and in a checkout."""
    return _FOLDERS


@cache
def page(name: str) -> str:
    """Return the address of a page such as `threat-model`.

    It is below the `Documentation` URL of the package's metadata, if set, or else a local file.
    """
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        urls = metadata("mpu-cli").get_all("Project-URL") or []
    except PackageNotFoundError:  # mpu runs from a source tree that is not installed
        urls = []
    for label, _, url in (entry.partition(",") for entry in urls):
        if label.strip().lower() == "documentation":
            return f"{url.strip().rstrip('/')}/{name}.md"
    file = next((file for folder in _FOLDERS if (file := folder / f"{name}.md").is_file()), None)
    return file.as_uri() if file is not None else f"docs/{name}.md of the source"
