"""Where the documentation is, for messages.

An address that opens, whether mpu was installed from a wheel or runs from a checkout.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent
_PLACES = (_PACKAGE / "docs", _PACKAGE.parents[1] / "docs")
"""In an installed wheel, and in a checkout."""


@cache
def page(name: str) -> str:
    """The address of a page, `threat-model` say.

    At the project's own address if its metadata name one, else a file on this machine.

    Under the `Documentation` URL of the package's metadata, which whoever publishes the package
    sets, lies what `docs/` holds.
    """
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        urls = metadata("mpu-cli").get_all("Project-URL") or []
    except PackageNotFoundError:  # run from a source tree that was never installed
        urls = []
    for label, _, url in (entry.partition(",") for entry in urls):
        if label.strip().lower() == "documentation":
            return f"{url.strip().rstrip('/')}/{name}.md"
    file = next((file for place in _PLACES if (file := place / f"{name}.md").is_file()), None)
    return file.as_uri() if file is not None else f"docs/{name}.md of the source"
