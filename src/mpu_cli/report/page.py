"""One HTML page that needs no network, no script and no other file.

A page is data: a title, sections, and in them paragraphs, facts, lists, tables and plots. Every
text passes `escape` on its way into the page, and a policy in the head forbids scripts and
connections. Equal data give equal bytes: a page holds no time and no path of its making.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from mpu_cli import __version__
from mpu_cli.report.escape import escape
from mpu_cli.report.plot import NEEDS, Plot, svg
from mpu_cli.report.table import PageTable

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A few sentences; `kind` is "" or the CSS class "good", "bad" or "note"."""

    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Names with values."""

    pairs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Branch:
    """A node of a tree."""

    text: str
    about: str = ""
    children: tuple[Branch, ...] = ()


@dataclass(frozen=True, slots=True)
class Tree:
    """Nested lists."""

    roots: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot with the table of its numbers."""

    plot: Plot
    table: PageTable


@dataclass(frozen=True, slots=True)
class Listing:
    """A text as it is, folded until the reader opens it: the plan of a run."""

    summary: str
    text: str


Block = Paragraph | Facts | Tree | Figure | PageTable | Listing


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Page:
    """A document."""

    kind: str
    """What it is, above the title: "Evaluation record"."""
    title: str
    summary: Sequence[Paragraph]
    """What it says in a few sentences."""
    sections: Sequence[Section] = field(default_factory=tuple)

    def tables(self) -> Iterator[PageTable]:
        """Every table, those of plots included."""
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, Figure):
                    yield block.table
                elif isinstance(block, PageTable):
                    yield block

    def plots(self) -> list[Plot]:
        """Every plot."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [block.plot for block in blocks if isinstance(block, Figure)]


def render(page: Page) -> str:
    """The page as HTML."""
    body = [
        f'<header>\n<p class="kind">{escape(page.kind)}</p>\n<h1>{escape(page.title)}</h1>',
        *map(_block, page.summary),
        "</header>",
    ]
    if len(page.sections) > 2:
        body.append(_contents(page.sections))
    body.append("<main>")
    for number, section in enumerate(page.sections, start=1):
        heading = f"section-{number}"
        body.append(f'<section aria-labelledby="{heading}">')
        body.append(f'<h2 id="{heading}">{escape(section.title)}</h2>')
        body += [
            _block(block, f"{number}-{place}") for place, block in enumerate(section.blocks, 1)
        ]
        body.append("</section>")
    body.append("</main>")
    body.append(f"<footer><p>Made by mpu {escape(__version__)}.</p></footer>")
    text = "\n".join(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(page.title)} – {escape(page.kind)}</title>\n"
        f"<style>\n{_style()}</style>\n</head>\n<body>\n{text}\n</body>\n</html>\n"
    )


def _contents(sections: Sequence[Section]) -> str:
    links = "".join(
        f'<li><a href="#section-{number}">{escape(section.title)}</a></li>'
        for number, section in enumerate(sections, start=1)
    )
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'


def _block(block: Block, name: str = "") -> str:
    match block:
        case Paragraph(text, kind):
            return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else _plain(text)
        case Facts(pairs):
            lines = (
                f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>"
                for key, value in pairs.items()
            )
            return f"<dl>\n{chr(10).join(lines)}\n</dl>"
        case Tree(roots):
            return f'<ul class="tree">{"".join(map(_branch, roots))}</ul>'
        case PageTable():
            return f"{block.html()}\n{block.details()}"
        case Figure(plot, table):
            return _figure(plot, table, name)
        case Listing(summary, text):
            return (
                f"<details>\n<summary>{escape(summary)}</summary>\n"
                f'<pre tabindex="0">{escape(text)}</pre>\n</details>'
            )


def _plain(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _figure(plot: Plot, table: PageTable, name: str) -> str:
    drawn = svg(plot, name)
    picture = drawn if drawn is not None else f'<p class="note">{escape(NEEDS)}</p>'
    caption = f"<figcaption>{escape(plot.title)}. {escape(plot.about)}</figcaption>"
    return f"<figure>\n{picture}\n{caption}\n</figure>\n{table.html()}\n{table.details()}"


def _branch(branch: Branch) -> str:
    about = f' <span class="about">{escape(branch.about)}</span>' if branch.about else ""
    inner = "".join(map(_branch, branch.children))
    nested = f"<ul>{inner}</ul>" if inner else ""
    return f"<li><span>{escape(branch.text)}</span>{about}{nested}</li>"


@cache
def _style() -> str:
    return files(__package__).joinpath("style.css").read_text(encoding="utf-8")
