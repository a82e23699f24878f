"""Plots: the same bytes for equal input, whatever the reader's settings are; tables in full."""

from __future__ import annotations

import csv
import io

import pytest

from mpu_cli.report.escape import csv_text, escape
from mpu_cli.report.measured import frontiers, stated
from mpu_cli.report.plot import Dot, Mark, Plot, PlotAxis, Series, is_available, svg
from mpu_cli.report.table import PageTable
from mpu_cli.server.lineage.exposure import WHOLE

needs_plots = pytest.mark.skipif(not is_available(), reason="matplotlib is not installed")
PLOT = Plot(
    title="<title>",
    about="a & b",
    x=PlotAxis("x", is_log=True),
    y=PlotAxis("y"),
    series=(
        Series("$one$ </text>", (Dot(0.1, 2), Dot(0, 1), Dot(float("nan"), 1), Dot(1, 3)), True),
    ),
    marks=(Mark(0, "nowhere"), Mark(0.5, "yours")),
)


@needs_plots
def test_equal_plots_are_equal_bytes_under_other_settings():
    """A reader's matplotlibrc, another plot before, and the time change nothing."""
    import matplotlib

    first = svg(PLOT, "1")
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "text.usetex": False}):
        assert svg(PLOT, "1") == first
    other = svg(PLOT, "2")
    assert other != first and other.replace("plot-2", "plot-1") == first
    assert matplotlib.rcParams["svg.fonttype"] == "path"  # ours are not left behind


@needs_plots
def test_text_stays_text_and_nothing_of_it_is_markup():
    """No mathematics, no tags; points that an axis does not have are left out."""
    drawn = svg(PLOT, "1")
    assert "$one$ &lt;/text&gt;" in drawn and "<title" in drawn
    assert "&lt;title&gt;" in drawn and "a &amp; b" in drawn
    assert "<metadata" not in drawn and "<style" not in drawn and "<!--" not in drawn
    assert "yours" in drawn and "nowhere" not in drawn
    assert "currentColor" in drawn and "#0a0b" not in drawn and "var(--s1)" in drawn


@needs_plots
@pytest.mark.parametrize("is_log", [False, True])
def test_values_that_no_axis_holds(is_log):
    """Huge, infinite and missing numbers are left out, as points, as bounds and as marks."""
    nan, inf = float("nan"), float("inf")
    for value in (nan, inf, -inf, 1e308, -1e308):
        points = (
            Dot(value, 1),
            Dot(1e308, value),
            Dot(1, 1, value, 1e308, -1e308, value),
            Dot(0.5, 2, label="here"),
        )
        axis = PlotAxis("x", is_log=is_log)
        plot = Plot(
            title="t",
            about="a",
            x=axis,
            y=axis,
            series=(Series("one", points),),
            marks=(Mark(value, "nowhere"),),
        )
        drawn = svg(plot, "1")
        assert "here" in drawn and "nowhere" not in drawn


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=1+1", "'=1+1"),
        ("@x", "'@x"),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        ("-x", "'-x"),
        ("a\x1b[2J", "a\\x1b[2J"),
        ("\t=x", "\\t=x"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_cells_that_a_spreadsheet_would_obey(text, shown):
    """They get an apostrophe; numbers do not."""
    assert csv_text(text) == shown
    table = PageTable(name="t", caption="c", columns=("a",), rows=((text,),))
    assert list(csv.reader(io.StringIO(table.csv()))) == [["a"], [shown]]


def test_escaping():
    """Markup, quotes, direction marks, halves of letters."""
    assert escape("<a href='x'>&\"") == "&lt;a href=&#x27;x&#x27;&gt;&amp;&quot;"
    assert escape("a\u202eb\ud800\x00\u200b") == "a\\u202eb\\ud800\\x00\\u200b"


def test_what_perturb_would_state_of_the_measured_settings():
    """Closed forms: s/√(1+s²) with s = κ·α ⊕ c; a setting that is not understood is left out."""
    measured = {one.setting for frontier in frontiers() for one in frontier.settings}
    assert len([name for name in measured if stated(name, WHOLE) is not None]) >= 9
    both = stated("κ 1, offset 1, m 3", WHOLE)
    assert both.one_copy == pytest.approx((2 / 3) ** 0.5)
    assert both.all_copies == pytest.approx(0.5**0.5)
    assert stated("κ .1, m 3", WHOLE).all_copies == 0
    assert stated("κ 1, a new idea", WHOLE) is None
