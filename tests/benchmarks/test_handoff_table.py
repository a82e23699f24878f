"""The threat model's table comes from audits, and the page has what the script prints."""

from pathlib import Path

import handoff_table as table

PAGE = Path(__file__).parents[2] / "docs" / "threat-model.md"


def test_a_row_of_the_page_is_what_the_script_prints(tmp_path):
    """The last digit of a measured number may differ between machines; the rest may not."""
    (setting,) = (it for it in table.SETTINGS if it.words.startswith("`-m 1 --kappa 0 --offset 0."))
    (line,) = table.table_rows(setting, table.audited(setting, tmp_path))
    page = PAGE.read_text(encoding="utf-8").splitlines()
    (shown,) = (row for row in page if row.startswith(f"| {setting.words} "))
    cells, expected = ([cell.strip() for cell in row.split("|")] for row in (line, shown))
    assert cells[:4] == expected[:4] and cells[5] == expected[5]
    assert abs(float(cells[4]) - float(expected[4])) < 2e-3
    assert all(any(row.startswith(f"| {it.words} ") for row in page) for it in table.SETTINGS)


def test_numbers_are_short():
    """Three digits, or one below .001."""
    assert [table.short(it) for it in (0.0, 0.0980012, 0.61299, 8.2e-8, 0.0064)] == [
        "0",
        ".098",
        ".613",
        "8e-8",
        ".0064",
    ]
