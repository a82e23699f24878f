"""Fields of a settings class that are options of a command.

A field declared by `option` is the only place with an option's name, help, default, choices and
range. The command line, the config file, the documentation and the checks all read it here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mpu_cli.errors import UsageError
from mpu_cli.registry import did_you_mean

Panel = Literal["Model", "Data", "Method", "Optimisation", "Output", "General"]
PANELS: tuple[Panel, ...] = get_args(Panel)
"""The sections of a command's help, in order."""
REQUIRED: Any = MISSING
"""The default of an option that must be given."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """What a field declares about its option. The field's type gives the kind and the choices."""

    help: str
    """One plain phrase, without the default and the choices."""
    panel: Panel | None = None
    """The section of the help; None = that of the field before."""
    flag: str | None = None
    """"--x" or "--x/--no-x", where it does not follow from the field's name; a word without
    hyphens is the name of a positional argument."""
    short: str | None = None
    metavar: str | None = None
    """What stands for the value in the help."""
    shown: str | None = None
    """The default in words, where the value does not say it."""
    least: float | None = None
    above: float | None = None
    most: float | None = None
    hint: str | None = None
    """What to do about a number out of range."""
    names: Callable[[], Sequence[str]] | None = None
    """Names that shells complete, where the type does not list them."""
    parse: Callable[[Any], Any] | None = None
    """Makes the field's value of the text (of all texts, if `repeated`)."""
    repeated: bool = False
    """It may be given several times; the field is a tuple."""
    environment: str | None = None
    """An environment variable that is read where the option is not given."""


def option(default: T, help: str, **details: Any) -> T:
    """Declare a dataclass field that is an option.

    Args:
        default: the value without the option, or `REQUIRED`.
        help: see `Option`.
        details: the other fields of `Option`.
    """
    return field(default=default, metadata={Option: Option(help=help, **details)})


def same_option(settings: type, name: str) -> Any:
    """A field with the option and the default of another class's field."""
    other = next(item for item in options_of(settings) if item.field == name)
    return field(default=other.default, metadata={Option: other.option})


@dataclass(frozen=True, slots=True)
class Declared:
    """One option of a settings class."""

    field: str
    type: type
    """bool, int, float, str or Path; of one value if it is repeated."""
    default: Any
    """`REQUIRED` where there is none."""
    choices: tuple[str, ...]
    """All values allowed; empty where any is."""
    option: Option
    is_required: bool

    @property
    def flag(self) -> str:
        """The long flag, "--learning-rate", or the name of a positional argument."""
        return (self.option.flag or f"--{self.field.replace('_', '-')}").partition("/")[0]

    @property
    def name(self) -> str:
        """The name in a config file, with underscores."""
        return self.flag.lower().removeprefix("--").replace("-", "_")

    @property
    def is_positional(self) -> bool:
        """Whether it is an argument without a flag."""
        return not self.flag.startswith("--")

    @property
    def shown_default(self) -> str | None:
        """The default as the help prints it; None where there is nothing to print."""
        default = self.default
        if self.option.shown is not None:
            return self.option.shown
        if default is REQUIRED or default is None or default in {(), ""}:
            return None
        if isinstance(default, bool):
            on, _, off = (self.option.flag or "").partition("/")
            return (on if default else off).removeprefix("--") or None
        if isinstance(default, tuple):
            return ", ".join(f"{value:g}" for value in default)
        return f"{default:g}" if isinstance(default, float) else str(default)

    @property
    def full_help(self) -> str:
        """The help with the default and the environment variable."""
        notes = [
            f"{name}: {text}"
            for name, text in (
                ("default", self.shown_default),
                ("environment variable", self.option.environment),
            )
            if text is not None
        ]
        return " ".join([self.option.help, *(f"[{note}]" for note in notes)])

    def check(self, value: object) -> None:
        """Refuse a value that is not among the choices or in the range.

        Raises:
            UsageError: the message names the flag.
        """
        if value is None and self.default is None:
            return
        if self.choices:
            check_choice(self.flag, value, self.choices)
        bounds = (self.option.least, self.option.above, self.option.most)
        if self.type in {int, float} and any(bound is not None for bound in bounds):
            values = value if isinstance(value, tuple) else (value,)
            for number in values:
                if not self._is_in_range(number):
                    shown = f"{number:g}" if isinstance(number, float) else number
                    message = f"{self.flag} {shown}: expected {self._range()}"
                    raise UsageError(message, self.option.hint)

    def _is_in_range(self, number: object) -> bool:
        least, above, most = self.option.least, self.option.above, self.option.most
        kinds = int if self.type is int else (int, float)
        return (
            isinstance(number, kinds)
            and not isinstance(number, bool)
            and (math.isfinite(number) or number == most)
            and (least is None or number >= least)
            and (above is None or number > above)
            and (most is None or number <= most)
        )

    def _range(self) -> str:
        least, above, most = self.option.least, self.option.above, self.option.most
        kind = "a whole number" if self.type is int else "a finite number"
        if most == math.inf:
            most, kind = None, "a number"
        if most is None:
            return f"{kind} above {above:g}" if least is None else f"{kind}, at least {least:g}"
        if least is None:
            return f"{kind} above {above:g} and at most {most:g}"
        return f"{kind} from {least:.10g} to {most:.10g}"


@cache
def options_of(settings: Any) -> tuple[Declared, ...]:
    """The options of a settings class, without those of its parts."""
    types, panel, declared = get_type_hints(settings), None, []
    for item in fields(settings):
        if Option in item.metadata:
            spec: Option = item.metadata[Option]
            panel = spec.panel or panel
            spec, required = replace(spec, panel=panel), item.default is REQUIRED
            kind, choices = _kind(types[item.name])
            declared.append(Declared(item.name, kind, item.default, choices, spec, required))
    return tuple(declared)


@cache
def parts_of(settings: Any) -> Mapping[str, Any]:
    """The fields that are settings classes themselves, by name; one that may be None too."""
    types = get_type_hints(settings)
    parts = ((item.name, _without_none(types[item.name])) for item in fields(settings))
    return {name: part for name, part in parts if is_dataclass(part)}


def all_options(settings: type) -> Iterator[Declared]:
    """The options of a class and of its parts, in the order of the fields.

    Nothing is required in a part that may be None.
    """
    own, parts = {item.field: item for item in options_of(settings)}, parts_of(settings)
    for item in fields(settings):
        if item.name in own:
            yield own[item.name]
        elif item.name in parts:
            for inner in all_options(parts[item.name]):
                yield replace(inner, is_required=inner.is_required and item.default is MISSING)


def flags_of(settings: type) -> dict[str, str]:
    """The flag of each field that is an option."""
    return {item.field: item.flag for item in options_of(settings)}


def check(settings: Any) -> None:
    """Check every option of a settings object.

    Raises:
        UsageError: the first value that is not allowed.
    """
    kind: Any = type(settings)
    for item in options_of(kind):
        item.check(getattr(settings, item.field))


class Settings:
    """Base of settings classes that checks every option."""

    __slots__ = ()

    def __post_init__(self) -> None:
        """Raise `UsageError` for the first value that is not allowed."""
        check(self)


def check_choice(flag: str, value: object, known: Sequence[str]) -> None:
    """Refuse a value that is not in a list.

    Raises:
        UsageError: the hint names the nearest value.
    """
    if value not in known:
        names = f"one of {', '.join(known)}" if len(known) > 1 else known[0]
        message = f"{flag} {value}: expected {names}"
        raise UsageError(message, did_you_mean(str(value), known))


def _kind(annotation: Any) -> tuple[type, tuple[str, ...]]:
    kind = _without_none(annotation)
    while get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return (str, get_args(kind)) if get_origin(kind) is Literal else (kind, ())


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in {Union, UnionType}:
        return next(part for part in get_args(annotation) if part is not NoneType)
    return annotation
