"""The world, once per session, and the table of counts at the end (`make testkit`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from testkit.world import World, make_world


@pytest.fixture(scope="session", autouse=True)
def nobody_is_known(tmp_path_factory) -> Iterator[None]:
    """No key is pinned on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(scope="session")
def world(tiny_pair, tmp_path_factory) -> World:
    """See `make_world`; no test may change it."""
    pair = tiny_pair("llama")
    return make_world(tmp_path_factory.mktemp("world"), pair.model, pair.base)


def pytest_terminal_summary(terminalreporter) -> None:
    """Families × cases × commands × outcomes, from what the tests recorded."""
    rows: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            called = getattr(report, "when", "") == "call"
            for key, value in report.user_properties if called else ():
                if key == "testkit":
                    family, commands = value
                    row = rows.setdefault(family, Counter())
                    row["cases"] += 1
                    row["commands"] += len(commands)
                    row.update(f"exit {told.split()[0]}" for told in commands.values())
    if not rows:
        return
    total: Counter[str] = Counter()
    for row in rows.values():
        total.update(row)
    columns = ["cases", "commands", *sorted(key for key in total if key.startswith("exit"))]
    terminalreporter.section("test kit")
    terminalreporter.write_line(f"{'family':<24}" + "".join(f"{c:>10}" for c in columns))
    for family, row in [*sorted(rows.items()), ("all", total)]:
        terminalreporter.write_line(f"{family:<24}" + "".join(f"{row[c]:>10}" for c in columns))
