"""Plots as SVG inside a page, drawn by matplotlib; the only module that imports it.

Equal plots give equal bytes: nothing depends on the time, on random ids or on the reader's
settings of matplotlib. Text stays text, and colours are variables of the page's style sheet, so
that one picture serves light and dark.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mpu_cli.foreign_text import visible
from mpu_cli.report.escape import escape
from mpu_cli.report.numbers import short

NEEDS = (
    "This plot needs matplotlib: pip install 'mpu-cli[report]', then make the page again. Its"
    " numbers are in the table."
)
MOST_SERIES = 8
"""Colours that can be told apart."""
_LONGEST = 44
_LARGEST = 1e150
"""Of a value that is drawn: the square of an axis' length must be finite."""
_WIDTH, _HEIGHT, _LINE = 5.0, 3.1, 0.22
"""Inches of 72 pixels: as wide as a phone's screen, so that the text is readable there. A line of
the legend adds to the height."""
_INK, _MUTED, _PAGE = "#0a0bf0", "#0a0bf1", "#0a0bf2"
_SERIES = tuple(f"#0a0b{number:02x}" for number in range(1, MOST_SERIES + 1))
"""Colours that nobody sees: each stands for a variable of the style sheet (`_variable`)."""
_STANDS_FOR = {_INK: "currentColor", _MUTED: "var(--muted)", _PAGE: "var(--page)"} | {
    colour: f"var(--s{number})" for number, colour in enumerate(_SERIES, start=1)
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))


@dataclass(frozen=True, slots=True)
class Dot:
    """A value with intervals of both coordinates; None where there is none."""

    x: float
    y: float
    y_low: float | None = None
    y_high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    label: str = ""
    """A word beside it."""


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind."""

    label: str
    points: tuple[Dot, ...]
    is_line: bool = False


@dataclass(frozen=True, slots=True)
class PlotAxis:
    """What one direction shows."""

    label: str
    is_log: bool = False
    names: tuple[str, ...] = ()
    """Of y only: names of the lines 0, 1, … from the top, written above their points."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across the plot at a value of x."""

    x: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What is drawn."""

    title: str
    about: str
    """What the reader sees in it, for those who do not see it."""
    x: PlotAxis
    y: PlotAxis
    series: tuple[Series, ...]
    """More than `MOST_SERIES` are not drawn; the table has them."""
    marks: tuple[Mark, ...] = ()


def is_available() -> bool:
    """Whether plots can be drawn in this installation."""
    try:
        import matplotlib.backends.backend_svg  # noqa: F401
    except ImportError:
        return False
    return True


def svg(plot: Plot, name: str) -> str | None:
    """The plot as an SVG element; None without matplotlib.

    Args:
        plot: what to draw. Points with a coordinate that a logarithmic axis does not have are left
            out.
        name: distinguishes the ids of its parts from those of other plots of the page.
    """
    if not is_available():
        return None
    with _drawing():
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(figsize=(_WIDTH, _height(plot)), layout="constrained")
        axes = figure.add_subplot()
        for number, series in enumerate(plot.series[:MOST_SERIES]):
            _draw(axes, series, plot, number)
        for mark, dashes in zip(plot.marks, _DASHES[1:], strict=False):
            if not _can_be_drawn(mark.x, plot.x):
                continue
            axes.axvline(mark.x, color=_INK, linestyle=dashes, linewidth=1, label=_word(mark.label))
        _set_axes(axes, plot)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower left", frameon=False, fontsize=9, handlelength=3)
        FigureCanvasSVG(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _embedded(text.getvalue(), plot, f"plot-{name}")


def _height(plot: Plot) -> float:
    named = sum(bool(series.label) for series in plot.series[:MOST_SERIES]) + len(plot.marks)
    lines = len(plot.y.names)
    return (0.9 + 2 * _LINE * lines if lines else _HEIGHT) + _LINE * named


@contextmanager
def _drawing() -> Iterator[None]:
    """Matplotlib with its own defaults, whatever the reader's settings are, and ours."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks is the browser's to draw
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "mpu",
                "text.parse_math": False,  # a name may hold dollar signs
                "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same places anywhere
                "font.size": 10,
                "text.color": _INK,
                "axes.labelcolor": _INK,
                "axes.edgecolor": _MUTED,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "xtick.color": _MUTED,
                "ytick.color": _MUTED,
                "xtick.labelcolor": _INK,
                "ytick.labelcolor": _INK,
            }
        )
        yield


def _draw(axes: Any, series: Series, plot: Plot, number: int) -> None:
    points = [point for point in series.points if _is_shown(point, plot)]
    if not points:
        return
    colour = _SERIES[number]
    xs, ys = [point.x for point in points], [point.y for point in points]
    axes.plot(
        xs,
        ys,
        color=colour,
        marker=_MARKERS[number],
        markersize=5,
        linestyle=_DASHES[number] if series.is_line else "none",
        linewidth=1.5,
        label=_word(series.label) if series.label else None,
    )
    bars: dict[str, Any] = {"color": colour, "linewidth": 1, "alpha": 0.7}
    for point in points:
        if bounds := _bounds(point.y, point.y_low, point.y_high, plot.y):
            axes.plot([point.x, point.x], bounds, **bars)
        if bounds := _bounds(point.x, point.x_low, point.x_high, plot.x):
            axes.plot(bounds, [point.y, point.y], **bars)
        if point.label:
            axes.annotate(
                _word(point.label),
                (point.x, point.y),
                xytext=(6, 4) if number % 2 == 0 else (-6, 4),
                textcoords="offset points",
                horizontalalignment="left" if number % 2 == 0 else "right",
                fontsize=9,
                color=_INK,
            )


def _is_shown(point: Dot, plot: Plot) -> bool:
    pairs = ((point.x, plot.x), (point.y, plot.y))
    return all(_can_be_drawn(value, axis) for value, axis in pairs)


def _can_be_drawn(value: float, axis: PlotAxis) -> bool:
    return abs(value) < _LARGEST and (value > 0 or not axis.is_log)


def _bounds(
    value: float, low: float | None, high: float | None, axis: PlotAxis
) -> tuple[float, float] | None:
    """The interval of a value as it is drawn, or None."""
    if low is None or high is None or not (abs(low) < _LARGEST and abs(high) < _LARGEST):
        return None
    return max(low, value / 1e3) if axis.is_log else low, high


def _set_axes(axes: Any, plot: Plot) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.grid(True, color=_MUTED, alpha=0.25, linewidth=0.5)
    axes.set_xlabel(_word(plot.x.label))
    axes.set_ylabel(_word(plot.y.label))
    for axis, one in ((axes.xaxis, plot.x), (axes.yaxis, plot.y)):
        if one.names:
            _name_lines(axes, one.names)
        elif one.is_log:
            _set_log(axes, axis)
        else:
            # Long numbers must not meet on a narrow screen, and there is no round 1.5.
            axis.set_major_locator(MaxNLocator(5, integer=_is_whole(plot, axis.axis_name)))
            axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(0.08, 0.02 if plot.y.names else 0.08)


def _is_whole(plot: Plot, name: str) -> bool:
    values = [getattr(point, name) for series in plot.series for point in series.points]
    return all(float(value).is_integer() for value in values)


def _name_lines(axes: Any, names: Sequence[str]) -> None:
    """Names beside the axis would leave no room for the points on a narrow screen."""
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(names) - 0.5, -0.8)
    style: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(),
        "fontsize": 9,
        "va": "bottom",
        "bbox": {"facecolor": _PAGE, "edgecolor": "none", "pad": 0.5},  # over the marks' lines
    }
    for line, name in enumerate(names):
        axes.text(0, line - 0.25, _word(name), **style)


def _set_log(axes: Any, axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    name = axis.axis_name
    getattr(axes, f"set_{name}scale")("log")
    low, high = getattr(axes, f"get_{name}lim")()
    decades = abs(high / low) if low > 0 else 1.0
    subs: Sequence[float] = (1.0, 2.0, 5.0) if decades < 1e2 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_formatter(NullFormatter())


def _word(text: str) -> str:
    shown = visible(text).replace("\n", " ")
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def _embedded(text: str, plot: Plot, name: str) -> str:
    """The SVG element alone, with ids of its own, the page's colours, a title and a description."""
    text = text[text.index("<svg") :]
    # Its style sheet would hold for the whole page; the page's has the same rule for plots.
    text = re.sub(r"<!--.*?-->\n?|<(metadata|style)\b.*?</\1>\n?", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    for colour, variable in _STANDS_FOR.items():
        text = text.replace(colour, variable)
    text = text.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    head, _, rest = text.partition(">")
    head = re.sub(r' (?:width|height|version|xmlns)="[^"]*"', "", head)
    return (
        f'{head} role="img" aria-labelledby="{name}-title {name}-about">\n'
        f'<title id="{name}-title">{escape(plot.title)}</title>\n'
        f'<desc id="{name}-about">{escape(plot.about)}</desc>{rest.rstrip()}'
    )
