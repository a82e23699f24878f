"""How files of rows are read and long texts are cut: the options of every command with rows."""

from __future__ import annotations

from dataclasses import dataclass

from mpu_cli.data.mapping import parse_mapping
from mpu_cli.errors import UsageError
from mpu_cli.option import Settings, option


def parse_delimiter(text: str) -> str:
    """Read the value of `--delimiter`: one character, or `tab`.

    Raises:
        UsageError: anything else, or a character that has another meaning in a CSV file.
    """
    character = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}.get(text.lower(), text)
    if len(character) != 1 or character in '"\r\n':
        raise UsageError(
            f"--delimiter {text!r}: expected one character",
            "for instance --delimiter ';' or --delimiter tab",
        )
    return character


@dataclass(frozen=True, slots=True)
class ColumnSettings(Settings):
    """How the columns of a file are read."""

    columns: tuple[tuple[str, str], ...] = option(
        (),
        "Name the column that holds a field (prompt, answer, messages, text or alternate)."
        " Repeatable.",
        panel="Data",
        flag="--map",
        metavar="FIELD=COLUMN",
        parse=lambda texts: tuple(parse_mapping(texts).items()),
        repeated=True,
    )
    delimiter: str | None = option(
        None,
        "Character between the columns of CSV files, or the word tab.",
        shown="detected from the header",
        metavar="CHARACTER",
        parse=parse_delimiter,
    )

    @property
    def mapping(self) -> dict[str, str]:
        """The column of each field that was named."""
        return dict(self.columns)


@dataclass(frozen=True, slots=True)
class WindowSettings(Settings):
    """How long rows are cut and short texts are packed.

    Raises:
        UsageError: a value is out of range.
    """

    max_length: int | None = option(
        None,
        "Number of tokens to keep of a row. Longer plain texts are split into windows.",
        panel="Data",
        shown="512, or the model's context if that is shorter",
        least=2,
        metavar="TOKENS",
    )
    overlap: int | None = option(
        None,
        "Number of tokens that two windows of a long text share.",
        shown="an eighth of a window",
        least=1,
        metavar="TOKENS",
    )
    pack: bool = option(False, "Pack short plain texts together into blocks.", flag="--packing")
