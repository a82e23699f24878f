"""Plots and tables of a run, one of each for every method."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mpu_cli.report.numbers import number
from mpu_cli.report.page import Block, Figure
from mpu_cli.report.plot import MOST_SERIES, Dot, Plot, PlotAxis, Series
from mpu_cli.report.run_groups import KappaSeries, RunGroup, SeedMean, label
from mpu_cli.report.run_table import BEFORE, NOISY
from mpu_cli.report.table import Cell, PageTable

Values = tuple[Cell, ...]


def utility(method: str, found: Sequence[RunGroup]) -> list[Block]:
    """Forgetting against utility: a series for each setting but κ, whose points are the κ."""
    drawn = [(it, it.estimate("forget"), it.estimate("retain")) for it in found]
    series: dict[str, list[Dot]] = {}
    for group, forget, retain in drawn:
        if forget is None or retain is None or group.kind == BEFORE:
            continue  # the model before is far away from all others; the table has it
        rest = {name: value for name, value in group.setting.items() if name != "kappa"}
        kappa = group.setting.get("kappa", "") if group.kind == NOISY else ""
        series.setdefault(label(group.kind, rest), []).append(
            Dot(
                retain.mean,
                forget.mean,
                forget.low,
                forget.high,
                retain.low,
                retain.high,
                f"κ {kappa}" if kappa else "",
            )
        )
    columns = ("forget", "retain", "error")
    table = _estimates(
        f"utility{_slug(method)}", f"{method or 'All'}: means with 95 % intervals.", found, columns
    )
    if not series:
        return [table]
    before = any(group.kind == BEFORE for group in found)
    plot = Plot(
        title=f"{method or 'All runs'}: forgetting against utility",
        about="Down is more forgotten, right is more kept."
        f"{' The table also has the model before.' if before else ''}{_left_out(len(series))}",
        x=PlotAxis("retain probability"),
        y=PlotAxis("forget probability"),
        series=_series(series),
    )
    return [Figure(plot, table)]


def slopes(series: Sequence[KappaSeries]) -> PageTable:
    """The exponent of κ in the error of every series."""
    found = [(one, one.slope()) for one in series]
    return PageTable(
        name="slopes",
        caption="Slope of log error in log κ: least squares for each seed and draw, then the mean"
        " with its 95 % interval.",
        columns=("method", "setting", "κ", "slope", "95 %", "seeds"),
        rows=tuple(
            (
                one.method,
                one.label,
                ", ".join(f"{kappa:g}" for kappa in one.kappas),
                number(slope.mean) if slope else "–",
                _bounds(slope),
                str(slope.count) if slope else "–",
            )
            for one, slope in found
        ),
        names=("method", "setting", "kappas", "slope", "low", "high", "seeds"),
        values=tuple(
            (
                one.method,
                one.label,
                " ".join(f"{kappa:g}" for kappa in one.kappas),
                *(
                    (slope.mean, slope.low, slope.high, slope.count)
                    if slope
                    else (None, None, None, None)
                ),
            )
            for one, slope in found
        ),
    )


def error_in_kappa(method: str, series: Sequence[KappaSeries]) -> list[Block]:
    """Error against κ in log–log."""
    series = [one for one in series if one.kappas]
    if not series:
        return []
    lines, rows, values = {}, [], list[Values]()
    for one in series:
        slope = one.slope()
        points = []
        for group in one.groups:
            error = group.estimate("error", is_log=True)
            kappa = float(group.setting["kappa"])
            if error is not None:
                points.append(Dot(kappa, error.mean, error.low, error.high))
                rows.append((one.label, f"{kappa:g}", str(error), str(error.count)))
                values.append((one.label, kappa, error.mean, error.low, error.high, error.count))
        ending = f": slope {slope.mean:.2f}" if slope else ""
        lines[f"{one.label}{ending}"] = points
    table = PageTable(
        name=f"error{_slug(method)}",
        caption=f"{method}: geometric mean of the error, with 95 % intervals.",
        columns=("setting", "κ", "error", "seeds"),
        rows=tuple(rows),
        names=("setting", "kappa", "error", "low", "high", "seeds"),
        values=tuple(values),
    )
    plot = Plot(
        title=f"{method}: error of the update against the noise",
        about=f"Both axes are logarithmic; the slope is the exponent.{_left_out(len(lines))}",
        x=PlotAxis("κ", is_log=True),
        y=PlotAxis("error", is_log=True),
        series=_series(lines, is_line=True),
    )
    return [Figure(plot, table)]


def convergence(method: str, by_round: Mapping[int, Sequence[RunGroup]]) -> list[Block]:
    """Forget and retain probability after each round."""
    blocks: list[Block] = []
    for name, what in (("forget", "rows to forget"), ("retain", "retained rows")):
        lines: dict[str, list[Dot]] = {}
        rows, values = [], list[Values]()
        for place, found in by_round.items():
            for group in found:
                mean = group.estimate(name) if group.method in (method, "") else None
                if mean is None:
                    continue
                lines.setdefault(group.label, []).append(Dot(place, mean.mean, mean.low, mean.high))
                rows.append((group.label, str(place), str(mean), str(mean.count)))
                values.append((group.label, place, mean.mean, mean.low, mean.high, mean.count))
        order = {label: place for place, label in enumerate(lines)}
        table = PageTable(
            name=f"rounds-{name}{_slug(method)}",
            caption=f"{method}: answer probability of the {what} after each round.",
            columns=("setting", "round", name, "seeds"),
            rows=tuple(sorted(rows, key=lambda row: (order[row[0]], int(row[1])))),
            names=("setting", "round", name, "low", "high", "seeds"),
            values=tuple(values),
        )
        plot = Plot(
            title=f"{method}: {what}, round by round",
            about=f"A point is a mean over seeds, its line the interval.{_left_out(len(lines))}",
            x=PlotAxis("round"),
            y=PlotAxis(f"{name} probability"),
            series=_series(lines, is_line=True),
        )
        blocks.append(Figure(plot, table))
    return blocks


def leaks(found: Sequence[RunGroup]) -> list[Block]:
    """What the best attack left unknown, against the error."""
    series: dict[str, list[Dot]] = {}
    for name, words in (("one_copy", "left to one copy"), ("all_copies", "left to all copies")):
        for group in found:
            left, error = (group.estimate(key, is_log=True) for key in (name, "error"))
            if left is not None and error is not None:
                series.setdefault(words, []).append(
                    Dot(left.mean, error.mean, error.low, error.high, left.low, left.high)
                )
    table = _estimates(
        "leaks",
        "The share that the best attack of mpu audit left unknown, and the error.",
        found,
        ("one_copy", "all_copies", "error"),
        is_log=True,
    )
    if not series:
        return [table]
    plot = Plot(
        title="Leak and error",
        about="Right is better: more stays unknown. Down is better: a smaller error.",
        x=PlotAxis("share left unknown by the best attack", is_log=True),
        y=PlotAxis("error of the update", is_log=True),
        series=_series(series),
    )
    return [Figure(plot, table)]


def _estimates(
    name: str,
    caption: str,
    found: Sequence[RunGroup],
    columns: Sequence[str],
    *,
    is_log: bool = False,
) -> PageTable:
    rows, values = [], list[Values]()
    for group in found:
        means = [group.estimate(column, is_log=is_log) for column in columns]
        count = max((mean.count for mean in means if mean), default=0)
        words = [str(mean) if mean else "–" for mean in means]
        rows.append((f"{group.method} {group.label}".strip(), *words, str(count)))
        numbers: list[Cell] = []
        for mean in means:
            numbers += [mean.mean, mean.low, mean.high] if mean else [None, None, None]
        values.append((group.kind, group.method, group.label, *numbers, count))
    bounds = [f"{column}{part}" for column in columns for part in ("", "_low", "_high")]
    return PageTable(
        name=name,
        caption=caption,
        columns=("run", *columns, "seeds"),
        rows=tuple(rows),
        names=("kind", "method", "setting", *bounds, "seeds"),
        values=tuple(values),
    )


def _series(found: Mapping[str, Sequence[Dot]], *, is_line: bool = False) -> tuple[Series, ...]:
    return tuple(Series(name, tuple(points), is_line) for name, points in found.items())


def _left_out(count: int) -> str:
    return (
        f" Of {count} series the first {MOST_SERIES} are drawn; the table has all of them."
        if count > MOST_SERIES
        else ""
    )


def _bounds(found: SeedMean | None) -> str:
    if found is None or found.low is None:
        return "–"
    return f"{number(found.low)} … {number(found.high)}"


def _slug(method: str) -> str:
    """The method in a file's name; names come from a file, and may hold anything."""
    plain = re.sub(r"[^a-z0-9]+", "-", method.lower()).strip("-")[:40]
    return f"-{plain}" if plain else ""
