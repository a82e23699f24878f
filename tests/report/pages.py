"""What every page must be: well-formed, alone, and readable without seeing it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

LOADS = re.compile(r"""(?:\bsrc|\bhref)=["'](?!#|data:text/csv)|<script|<link|@import|url\((?!#)""")
"""What would make a page ask for another file, or run."""
_VOID = {"meta", "link", "br", "use", "path"}


class Outline(HTMLParser):
    """The tags and ids of a page; ends that match no beginning are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note the tag and its id."""
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in _VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        """An element without content."""
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        """Ends match beginnings."""
        if tag not in _VOID:
            assert self.stack.pop() == tag


def check_page(text: str) -> Outline:
    """A page is well-formed, asks for nothing, and has tables for screen readers."""
    found = Outline(text)
    assert found.stack == []
    assert len(found.ids) == len(set(found.ids))
    assert not LOADS.search(text)
    assert found.tags.count("table") == found.tags.count("caption") > 0
    assert text.count("<svg") == text.count('role="img"')
    assert "default-src 'none'" in text
    assert found.tags.count("h1") == 1
    return found
