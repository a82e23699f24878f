"""Boxes, text and arrows as SVG text, in colours that follow the reader's light or dark mode."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

LIGHT = {
    "ink": "#1f2328",
    "soft": "#59636e",
    "line": "#818b98",
    "page": "#ffffff",
    "server": "#ddf4ff",
    "client": "#dafbe1",
    "shared": "#f6f8fa",
    "secret": "#ffebe9",
}
DARK = {
    "ink": "#f0f6fc",
    "soft": "#9198a1",
    "line": "#656c76",
    "page": "#0d1117",
    "server": "#10305a",
    "client": "#10381f",
    "shared": "#1c2129",
    "secret": "#4a1a1d",
}
SANS = 'system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif'
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


def _colours(palette: dict[str, str]) -> str:
    """Rules for one mode. No CSS variables: librsvg and cairosvg do not know them."""
    fills = {"text": "ink", ".words": "soft", ".head": "line"}
    fills |= {f".{name}": name for name in ("page", "server", "client", "shared", "secret")}
    rules = [f"{selector} {{ fill: {palette[name]}; }}" for selector, name in fills.items()]
    return "\n".join([*rules, f".box, .arrow {{ stroke: {palette['line']}; }}"])


STYLE = f"""
text {{ font-family: {SANS}; font-size: 12px; }}
.title {{ font-weight: 600; font-size: 15px; }}
.mono {{ font-family: {MONO}; }}
.arrow {{ fill: none; stroke-width: 1.5; marker-end: url(#head); }}
.box {{ stroke-width: 1; }}
{_colours(LIGHT)}
@media (prefers-color-scheme: dark) {{
{_colours(DARK)}
}}
"""
"""One style for every drawing; the names say what a colour stands for."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle by its centre, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def top(self) -> float:
        """The upper edge."""
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        """The lower edge."""
        return self.y + self.height / 2

    def draw(self, colour: str, *lines: tuple[str, str]) -> str:
        """The rectangle in one of the style's colours, with centred (class, text) lines."""
        left = self.x - self.width / 2
        parts = [
            f'<rect class="box {colour}" rx="8" x="{left:.1f}"'
            f' y="{self.top:.1f}" width="{self.width:.1f}" height="{self.height:.1f}"/>'
        ]
        first = self.y - 8.5 * (len(lines) - 1) + 4.5
        parts += [
            text(self.x, first + 17 * i, line, style) for i, (style, line) in enumerate(lines)
        ]
        return "\n".join(parts)


def text(x: float, y: float, line: str, style: str = "words", anchor: str = "middle") -> str:
    """One line of text whose baseline is at y."""
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(line, quote=False)}</text>"
    )


def arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    """A straight arrow."""
    return f'<path class="arrow" d="M{start[0]:.1f} {start[1]:.1f} L{end[0]:.1f} {end[1]:.1f}"/>'


def document(width: float, height: float, title: str, parts: list[str]) -> str:
    """A whole SVG file; the title is what a screen reader says."""
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto-start-reverse"><path class="head" d="M0 0 L8 4 L0 8 z"/></marker>'
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
            f' width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{escape(title)}">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f"<defs>{head}</defs>",
            '<rect class="page" width="100%" height="100%"/>',
            *parts,
            "</svg>\n",
        ]
    )
