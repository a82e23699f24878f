"""The declaration of a method, and the decorator that makes one."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mpu_cli.errors import UsageError
from mpu_cli.registry import did_you_mean
from mpu_cli.training.loss_inputs import with_layer

Value = float | int | bool | str


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method: its type, its published default and its choices, if any."""

    name: str
    type: type
    default: Value | None
    """None if the paper has no value, so that the user must set one."""
    choices: tuple[str, ...] = ()
    bound: str = ""
    """One of "> 0", ">= 0" and ""."""
    source: str = ""
    """Where the default was read: a repository and a file of it, or a paper."""

    def convert(self, text: str, assignment: str) -> Value:
        """Convert the text of a value.

        Raises:
            UsageError: it is of another type, out of bounds, or none of the choices.
        """
        if self.choices:
            for choice in self.choices:
                if choice.lower() == text.lower():
                    return choice
            raise UsageError(f"--set {assignment}: {self.name} is one of {', '.join(self.choices)}")
        if self.type is bool:
            if text.lower() not in ("true", "false"):
                raise UsageError(f"--set {assignment}: {self.name} is true or false")
            return text.lower() == "true"
        try:
            value: Value = self.type(text)
        except ValueError:
            kind = {int: "a whole number", float: "a number"}[self.type]
            raise UsageError(f"--set {assignment}: {self.name} is {kind}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--set {assignment}: {self.name} must be finite")
        if (
            self.bound
            and not isinstance(value, str)
            and (value < 0 or (value == 0 and self.bound == "> 0"))
        ):
            raise UsageError(f"--set {assignment}: {self.name} must be {self.bound}")
        return value


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """What a method's file declares beside its loss; reading it needs no torch."""

    name: str
    paper: str
    formula: str
    inputs: frozenset[str]
    """Names of `training.loss_inputs.LOSS_INPUTS`, for the default parameters."""
    parameters: tuple[Parameter, ...]
    recommended: tuple[tuple[str, float | str], ...] = ()
    """Pairs (field of TrainingSettings, value) that `recommended_by` trained with; only shown."""
    recommended_by: str = ""
    """The source of these settings."""

    @property
    def reads_hidden_only(self) -> bool:
        """Whether hidden states suffice, so that a model's lower layers do."""
        return "hidden" in self.inputs

    def parse(self, assignments: Iterable[str]) -> dict[str, Value]:
        """The values of all parameters: the defaults, changed by assignments such as "beta=0.5".

        Raises:
            UsageError: an assignment is not name=value, has an unknown name or one given before, or
                has a bad value; or a parameter without a default is not set.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        given: dict[str, Value] = {}
        for assignment in assignments:
            name, equals, value = (part.strip() for part in assignment.partition("="))
            if not equals or not name or not value:
                raise UsageError(
                    f"--set {assignment}: expected name=value, for example --set gamma=1"
                )
            if name not in known:
                raise UsageError(
                    f"--set {assignment}: {self.name} has no parameter {name!r}",
                    did_you_mean(name, known, f"known: {', '.join(known)}"),
                )
            if name in given:
                raise UsageError(f"--set {assignment}: {name} is set twice")
            given[name] = known[name].convert(value, assignment)
        values: dict[str, Value] = {}
        for parameter in self.parameters:
            value_or_none = given.get(parameter.name, parameter.default)
            if value_or_none is None:
                raise UsageError(
                    f"{self.name} needs a value for {parameter.name}, which has no default",
                    f"add --set {parameter.name}=VALUE; mpu unlearn --list-methods says what it is",
                )
            values[parameter.name] = value_or_none
        return values

    def inputs_with(self, parameters: Mapping[str, Value]) -> frozenset[str]:
        """The loss inputs for these parameters: alpha 0 needs no retain rows, KL retain logits."""
        inputs = set(self.inputs)
        if parameters.get("retain_loss") == "KL":
            inputs.add("retain_logits")
        weight = parameters.get("alpha")
        if weight == 0:
            inputs = {name for name in inputs if not name.startswith("retain")}
        elif weight is not None:
            inputs.add("retain")
        return with_layer(inputs, int(parameters.get("layer", -1)))

    def references_with(self, parameters: Mapping[str, Value]) -> frozenset[str]:
        """Those of the inputs that a model computes before the first step."""
        return frozenset(
            name
            for name in self.inputs_with(parameters)
            if name.endswith(("_nll", "_logits", "_hidden", "direction"))
        )

    def check(
        self,
        parameters: Mapping[str, Value],
        *,
        has_retain: bool,
        has_alternates: bool,
        has_unanswerable: bool = False,
    ) -> None:
        """Check that the rows have what the method needs.

        Raises:
            UsageError: the method needs a retain set, alternate answers or unanswerable questions,
                and there are none; or it has no use for such questions.
        """
        inputs = self.inputs_with(parameters)
        if "retain" in inputs and not has_retain:
            without = ", or --set alpha=0 to train without one" if "alpha" in parameters else ""
            raise UsageError(f"{self.name} needs a retain set", f"add --retain FILE{without}")
        if "alternate" in inputs and not has_alternates:
            raise UsageError(
                f"{self.name} needs an alternate answer to each forget row",
                "give each row of the forget file, and of the cover file, an 'alternate' answer, or"
                " add --refusals FILE",
            )
        if "direction" in inputs and not has_unanswerable:
            raise UsageError(
                f"{self.name} needs questions that the model refuses or cannot answer",
                "add --unanswerable FILE",
            )
        if has_unanswerable and "direction" not in inputs:
            raise UsageError(
                f"--unanswerable: {self.name} has no use for unanswerable questions",
                "leave it out, or choose LUNAR",
            )


@dataclass(frozen=True, slots=True)
class Method(MethodInfo):
    """A method with its loss."""

    loss: Callable[..., Any] = lambda *_: None

    def bind(self, parameters: Mapping[str, Value]) -> Callable[[Any, Any], Any]:
        """The loss as a function of (model, batch); a class gives a new StatefulLoss."""
        has_state = inspect.isclass(self.loss)
        bound: Callable[[Any, Any], Any] = (
            self.loss(**parameters) if has_state else partial(self.loss, **parameters)
        )
        return bound


def method(
    *,
    name: str,
    paper: str,
    formula: str,
    inputs: Iterable[str] = (),
    bounds: Mapping[str, str] | None = None,
    sources: Mapping[str, str] | None = None,
    recommended: Mapping[str, float | str] | None = None,
    recommended_by: str = "",
) -> Callable[[Callable[..., Any]], Method]:
    """Declare the decorated loss as a method.

    Every argument is a literal, so that it can be read without importing.

    Args:
        name: on the command line; upper and lower case do not matter there.
        paper: link to the paper whose formula this is.
        formula: the loss in one line, for help texts and docs.
        inputs: names of `training.loss_inputs.LOSS_INPUTS`.
        bounds: "> 0" or ">= 0" by parameter.
        sources: the source of each parameter's default, by parameter; prefer the authors' own
            repository.
        recommended: the training settings that belong to these defaults, by field of
            TrainingSettings.
        recommended_by: the source of these settings.

    A parameter without a default must be set by the user. `alpha` is the weight of the
    retain loss (0 removes it), `retain_loss` is NLL or KL, and `layer` is the layer of "hidden".
    """

    def declare(loss: Callable[..., Any]) -> Method:
        initializer: Any = loss.__init__ if inspect.isclass(loss) else loss
        hints = get_type_hints(initializer)
        keywords = [
            p for p in inspect.signature(loss).parameters.values() if p.kind is p.KEYWORD_ONLY
        ]
        parameters = tuple(
            parameter_of(
                p.name, hints[p.name], None if p.default is p.empty else p.default, bounds, sources
            )
            for p in keywords
        )
        chosen = tuple((recommended or {}).items())
        return Method(
            name, paper, formula, frozenset(inputs), parameters, chosen, recommended_by, loss
        )

    return declare


def parameter_of(
    name: str,
    hint: Any,
    default: Value | None,
    bounds: Mapping[str, str] | None,
    sources: Mapping[str, str] | None,
) -> Parameter:
    """A parameter by its annotation: a type, or a Literal of choices."""
    bound, source = (bounds or {}).get(name, ""), (sources or {}).get(name, "")
    if get_origin(hint) is Literal:
        return Parameter(name, str, default, get_args(hint), bound, source)
    return Parameter(name, hint, default, (), bound, source)
