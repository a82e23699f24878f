"""Read a plan: every key and every name in it is checked; no model and no rows are opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mpu_cli.client import methods
from mpu_cli.documentation import page
from mpu_cli.errors import UsageError
from mpu_cli.experiment.plan.commands import AXES_OF, WORDS, Commands, Section
from mpu_cli.experiment.plan.document import Document, Keys, read_document
from mpu_cli.experiment.plan.read_grid import Counts, natural, read_grids
from mpu_cli.experiment.plan.read_splits import location, read_splits
from mpu_cli.experiment.plan.schema import ExperimentPlan, Given, Layer, Resources, Split
from mpu_cli.experiment.plan.values import option_value
from mpu_cli.registry import did_you_mean

DEFAULT_EVAL: Mapping[str, Any] = {"metric": ["answer_probability"], "generate": False}
"""The evaluation of a plan without `eval`: one forward pass over forget and retain rows."""
_KEYS = (
    *("name", "model", "base", "retain_model", "data", "rounds", "seeds", "draws"),
    *WORDS,
    *("methods", "variants", "grid", "also", "baseline", "one_copy", "resources"),
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}", re.ASCII)
"""A name of a variant or a data split, which results and file names hold."""
_LAYER = (*(section for section in WORDS if section != "audit"), "rounds")
_RESOURCES = {item.name: item.type for item in fields(Resources)}


def read_plan(path: Path, commands: Commands) -> ExperimentPlan:
    """Read a plan from a file.

    Raises:
        UsageError: the file is no YAML that a plan may be, a key, an option, a method, a variant or
            a data split is unknown, or a value has another type than its option.
    """
    return plan_of(read_document(path), path.absolute().parent, commands)


def plan_of(document: Document, directory: Path, commands: Commands) -> ExperimentPlan:
    """The plan in a document.

    Args:
        document: the parsed file.
        directory: what relative paths are relative to.
        commands: the options of the commands.

    Raises:
        UsageError: see `read_plan`.
    """
    content = document.known((), document.content, _KEYS)
    for key in ("model", "data", "grid"):
        if key not in content:
            raise UsageError(f"{document.name}: {key} is missing", f"see {page('experiments')}")
    reader = _PlanReader(document, commands)
    for key in ("variants", "data"):
        for name in content[key] if isinstance(content.get(key), dict) else ():
            if not _NAME.fullmatch(name):
                raise document.wrong((key, name), "expected a name of letters, digits and . _ + -")
    variants = {
        name: reader.layer(("variants", name), layer, nested=True)
        for name, layer in document.map(("variants",), content.get("variants") or {}).items()
    }
    common = reader.layer(
        (), {key: content[key] for key in _LAYER if key in content}, audit=content
    )
    by_method = reader.by_method(("methods",), content.get("methods") or {})
    models = {
        key: None
        if content.get(key) is None
        else location(document, (key,), content[key], directory)
        for key in ("model", "base", "retain_model")
    }
    splits = read_splits(document, content["data"], directory, models["retain_model"])
    if "eval" not in content:
        splits = {name: _cheap(split) for name, split in splits.items()}
    counts = Counts.read(document, (), content)
    name = content.get("name") or Path(document.name).stem
    if not isinstance(name, str) or not name.isprintable() or len(name) > 100:
        raise document.wrong(("name",), "expected a short text")
    assert models["model"] is not None
    return ExperimentPlan(
        document=document,
        text=document.data,
        directory=directory,
        name=name,
        model=models["model"],
        base=models["base"],
        splits=splits,
        common=Layer(options=common.options, rounds=common.rounds, methods=by_method),
        variants=variants,
        grids=read_grids(document, content, commands, counts, list(splits), list(variants)),
        baseline=_switch(document, content, "baseline", default=True),
        one_copy=_switch(document, content, "one_copy", default=False),
        audits="audit" in content,
        resources=_resources(document, content.get("resources") or {}),
    )


class _PlanReader:
    def __init__(self, document: Document, commands: Commands) -> None:
        self._document, self._commands = document, commands

    def layer(
        self,
        keys: Keys,
        value: Any,
        *,
        nested: bool = False,
        audit: Mapping[str, Any] | None = None,
    ) -> Layer:
        """Options by section and rounds; `nested` allows methods inside, for a variant."""
        names = (*_LAYER, "methods") if nested else _LAYER
        content = self._document.known(keys, value, names)
        options = {
            section: self._options((*keys, section), section, content[section])
            for section in WORDS
            if section in content
        }
        if audit is not None:
            if "audit" in audit:
                options["audit"] = self._options(("audit",), "audit", audit["audit"])
            if "eval" not in content:
                options["eval"] = self._options(("eval",), "eval", DEFAULT_EVAL)
        rounds = content.get("rounds")
        return Layer(
            options=options,
            rounds=None if rounds is None else natural(self._document, (*keys, "rounds"), rounds),
            methods=self.by_method((*keys, "methods"), content.get("methods") or {}),
        )

    def by_method(self, keys: Keys, value: Any) -> dict[str, Layer]:
        layers: dict[str, Layer] = {}
        if not value:
            return layers
        known = methods.names()
        for name, layer in self._document.map(keys, value).items():
            right = next((one for one in known if one.lower() == name.lower()), None)
            if right is None:
                hint = did_you_mean(name, known, f"known: {', '.join(known)}")
                raise self._document.wrong((*keys, name), "unknown method", hint)
            layers[right] = self.layer((*keys, name), layer)
        return layers

    def _options(self, keys: Keys, section: Section, value: Any) -> dict[str, Given]:
        document, commands = self._document, self._commands
        given: dict[str, Given] = {}
        for key, content in document.map(keys, value if value is not None else {}).items():
            name, here = key.replace("-", "_"), (*keys, key)
            if name not in commands.names(section):
                if (instead := commands.instead(section, name)) is not None:
                    raise document.wrong(here, "the experiment sets this option itself", instead)
                others = [other for other in WORDS if name in commands.names(other)]
                known, elsewhere = (
                    commands.names(section),
                    f"it is an option of {', '.join(others)}",
                )
                nearest = did_you_mean(name, known, f"mpu {' '.join(WORDS[section])} --help")
                raise document.wrong(here, "unknown option", elsewhere if others else nearest)
            if name in given:
                raise document.wrong(here, "this option is given twice")
            declared = commands.options[section][name]
            given[name] = Given(option_value(document, here, declared, content), here)
        return given


def _cheap(split: Split) -> Split:
    """The split with only the rows that the default evaluation needs."""
    measured = {
        role: split.measured[role] for role in ("forget", "retain") if role in split.measured
    }
    return replace(split, measured=measured)


def _switch(document: Document, content: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = content.get(key, default)
    if not isinstance(value, bool):
        raise document.wrong((key,), f"{value}: expected true or false")
    return value


def _resources(document: Document, value: Any) -> dict[str, Resources]:
    keys: Keys = ("resources",)
    kinds = (*AXES_OF, "eval", "audit", "error", "default")
    resources = {}
    for kind, needs in document.known(keys, value, kinds).items():
        here = (*keys, kind)
        content = document.known(here, needs, tuple(_RESOURCES))
        for name, number in content.items():
            least = 0 if name == "gpus" else 1e-3 if name == "memory_gb" else 1
            whole = name != "memory_gb"
            kinds_of_number = int if whole else (int, float)
            if (
                isinstance(number, bool)
                or not isinstance(number, kinds_of_number)
                or number < least
            ):
                expected = "a whole number" if whole else "a number"
                raise document.wrong((*here, name), f"{number}: expected {expected}")
        resources[kind] = Resources(**content)
    return resources
