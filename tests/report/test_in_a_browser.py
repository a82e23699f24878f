"""Pages in headless Chromium: from `file:`, without errors, on a phone and on a screen.

Skipped where there is no Chromium; `make chromium` installs it. With MPU_SCREENSHOTS=DIR the
pictures are kept, to be looked at.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from made_run import make_run

from mpu_cli.report.page import Facts, Figure, Page, Paragraph, Section, render
from mpu_cli.report.plot import Dot, Mark, Plot, PlotAxis, Series, is_available
from mpu_cli.report.run import run_page
from mpu_cli.report.table import PageTable

BROWSER = next(
    (it for it in ("chromium", "chromium-browser", "google-chrome") if shutil.which(it)), ""
)
needs_browser = pytest.mark.skipif(not BROWSER, reason="no Chromium: make chromium installs it")
needs_plots = pytest.mark.skipif(not is_available(), reason="matplotlib is not installed")
STYLE = Path(__file__).parents[2] / "src" / "mpu_cli" / "report" / "style.css"
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions"),
    # Whatever a page asked for would fail, and Chromium would say so.
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"),
)
WIDTHS = (390, 1280)


def browse(page: Path, home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page."""
    return subprocess.run(
        [BROWSER, *QUIET, f"--user-data-dir={home}", *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the page's console holds."""
    return re.findall(r"CONSOLE.*", done.stderr)


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A page of every kind of block with long words, and that of a run."""
    root = tmp_path_factory.mktemp("pages")
    digest = "0123456789abcdef" * 4
    table = PageTable(
        name="t",
        caption="A caption that is longer than a telephone's screen is wide, by far.",
        columns=("a name", *(f"column {number}" for number in range(9)), "digest"),
        rows=((f"{'long' * 30}", *("0.1234 … 0.5678",) * 9, digest),),
    )
    plot = Plot(
        title="A plot",
        about="Two series.",
        x=PlotAxis("x", is_log=True),
        y=PlotAxis("y", is_log=True),
        series=(
            Series("<b>one</b> $x$", (Dot(0.01, 0.1, 0.05, 0.2), Dot(1, 1, label="here")), True),
            Series("two" * 30, (Dot(0.1, 0.3),)),
        ),
        marks=(Mark(0.5, "yours"),),
    )
    sections = [
        Section("<script>alert(1)</script>", [Facts({"digest": digest, "a" * 80: "b" * 200})]),
        Section("Plot", [Figure(plot, table)]),
        Section("Table", [table, Paragraph("c" * 300)]),
    ]
    made = {
        "blocks": Page("Kind", "title" * 30, [Paragraph("Failed.", "bad")], sections),
        "run": run_page(make_run(root / "run")),
    }
    for name, page in made.items():
        (root / f"{name}.html").write_text(render(page), encoding="utf-8")
    return {name: root / f"{name}.html" for name in made}


@needs_browser
@needs_plots
@pytest.mark.parametrize("name", ["blocks", "run"])
def test_a_page_opens_from_a_file_without_a_complaint(pages, name, tmp_path):
    """No error, no refused script and no request; no part is wider than a phone's screen."""
    # A page around it measures it: the page itself may run no script.
    around = tmp_path / "around.html"
    around.write_text(
        f'<iframe src="{pages[name].as_uri()}" width="{WIDTHS[0]}" height="800" onload="'
        "const d = this.contentDocument; document.title = d.documentElement.scrollWidth + ' '"
        " + d.querySelectorAll('svg text').length + ' ' + d.querySelectorAll('script').length\">"
    )
    done = browse(around, tmp_path / "home", "--allow-file-access-from-files", "--dump-dom")
    assert complaints(done) == []
    wide, words, scripts = map(int, re.search(r"<title>(.+?)</title>", done.stdout)[1].split())
    assert wide <= WIDTHS[0]
    assert words > 5 and scripts == 0


@needs_browser
def test_the_browser_would_complain(tmp_path):
    """Negative control: a script in a page is refused and named, and so is a picture."""
    text = render(Page("Kind", "Title", [])).replace(
        "</body>", '<script>alert(1)</script><img src="http://example.com/x.png"></body>'
    )
    (tmp_path / "page.html").write_text(text)
    found = complaints(browse(tmp_path / "page.html", tmp_path / "home", "--dump-dom"))
    assert len(found) >= 2 and "Content Security Policy" in found[0]


@needs_browser
@needs_plots
def test_pictures_light_and_dark(pages, tmp_path):
    """The corner has the page's colour in both modes, at both widths."""
    image = pytest.importorskip("matplotlib.image")
    kept = Path(os.environ.get("MPU_SCREENSHOTS") or tmp_path)
    kept.mkdir(exist_ok=True)
    for mode, number in (("light", "1"), ("dark", "0")):
        for width in WIDTHS:
            target = kept / f"blocks-{mode}-{width}.png"
            browse(
                pages["blocks"],
                tmp_path / "home",
                f"--blink-settings=preferredColorScheme={number}",
                f"--window-size={width},2000",
                f"--screenshot={target}",
            )
            red, green, blue = image.imread(target)[5, 5][:3]
            assert ((red + green + blue) / 3 > 0.9) == (mode == "light"), target


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_in_both_modes():
    """WCAG's 4.5 : 1 for all text, and for the colours of plots, on the page and on boxes."""
    modes = re.findall(r":root \{([^}]*--page[^}]*)\}", STYLE.read_text())
    assert len(modes) == 2
    for mode in modes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", mode))
        series = [f"s{number}" for number in range(1, 9)]
        for name in ("ink", "muted", "link", "good", "bad", *series):
            for ground in ("page", "faint"):
                pair = sorted((_luminance(colours[name]), _luminance(colours[ground])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (name, ground, colours)
