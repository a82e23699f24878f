"""The option `--report FILE.html` of audits: the printed result as a page, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.cli.output import Output
from mpu_cli.option import option

if TYPE_CHECKING:
    from mpu_cli.report.gates import Outcome
    from mpu_cli.report.page import Page

MakePage = Callable[["Outcome"], "Page"]


@dataclass(frozen=True, slots=True)
class PageSettings:
    """The option of every audit."""

    report: Path | None = option(
        None, "Also write the result as a page.", panel="Output", metavar="FILE.html"
    )

    def check(self, *inputs: Path) -> None:
        """Refuse the target before the audit begins.

        Raises:
            OutputError: it exists.
            UsageError: it is inside an input.
        """
        if self.report is not None:
            from mpu_cli.report.write import check_target

            check_target(self.report, None, [path for path in inputs if path.is_dir()], force=None)

    def write(self, output: Output, make: MakePage, outcome: Outcome) -> None:
        """Write the page, if it was asked for."""
        if self.report is None:
            return
        from mpu_cli.report.write import write_page

        for text in write_page(make(outcome), self.report, force=None):
            output.warn(text)
        output.note(f"wrote {self.report}")
