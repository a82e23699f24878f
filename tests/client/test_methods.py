"""The unlearning methods: each loss against its paper's formula in numpy, and the registry around them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_model

from mpu_cli.client import methods
from mpu_cli.data.batches import collate
from mpu_cli.data.templates import IGNORED, Encoded
from mpu_cli.errors import UsageError


def row(seed: int, length: int, prompt: int) -> Encoded:
    """Random tokens, the first `prompt` of them unlabelled."""
    ids = tuple(torch.randint(5, 320, (length,), generator=torch.Generator().manual_seed(seed)).tolist())
    return Encoded(ids, (IGNORED,) * prompt + ids[prompt:])


FORGET = [row(1, 9, 4), row(2, 6, 2), row(3, 12, 9)]
RETAIN = [row(4, 7, 3), row(5, 14, 6), row(6, 5, 1)]


def plain_rows(model: Any, encoded_rows: list[Encoded]) -> list[np.ndarray]:
    """The ℓ_t of each row, computed row by row in numpy from the model's logits."""
    found = []
    for encoded in encoded_rows:
        with torch.no_grad():
            logits = model(torch.tensor([encoded.input_ids])).logits[0].numpy()
        log_p = (
            logits
            - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - logits.max(-1, keepdims=True)
        )
        at = [t for t in range(1, len(encoded.labels)) if encoded.labels[t] != IGNORED]
        found.append(np.array([-log_p[t - 1, encoded.labels[t]] for t in at]))
    return found


def mean(rows: list[np.ndarray]) -> float:
    """Token mean over all rows."""
    return float(np.concatenate(rows).mean())


Numbers = list[np.ndarray]
FORMULAS: dict[str, Callable[[Numbers, Numbers, Numbers, dict[str, Any]], float]] = {
    "GradAscent": lambda f, r, ref, p: -p["gamma"] * mean(f),
    "GradDiff": lambda f, r, ref, p: -p["gamma"] * mean(f) + p["alpha"] * mean(r),
    "NPO": lambda f, r, ref, p: (
        p["gamma"]
        * float(
            np.mean(
                [
                    2 / p["beta"] * np.log1p(np.exp(-p["beta"] * (now.sum() - before.sum())))
                    for now, before in zip(f, ref, strict=True)
                ]
            )
        )
        + p["alpha"] * mean(r)
    ),
}
SETTINGS = [{}, {"gamma": 0.3, "alpha": 1.7, "beta": 0.8}]


def case(family: str, dtype: torch.dtype = torch.float64) -> tuple[Any, dict[str, Any], Numbers]:
    """A model, a batch that has everything, and the reference model's ℓ_t (another model, so that it matters)."""
    model, reference = make_model(family, seed=1).to(dtype), make_model(family, seed=2).to(dtype)
    before = plain_rows(reference, FORGET)
    batch = {
        "forget": collate(FORGET, 0),
        "retain": collate(RETAIN, 0),
        "reference": {"forget_nll": torch.tensor([float(each.sum()) for each in before], dtype=dtype)},
    }
    return model, batch, before


def parameters(method: methods.Method, changes: dict[str, float]) -> dict[str, Any]:
    """The method's defaults with those changes that it knows."""
    known = {parameter.name for parameter in method.parameters}
    return method.parse(f"{name}={value}" for name, value in changes.items() if name in known)


@pytest.mark.parametrize("changes", SETTINGS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("name", methods.names())
def test_loss_is_the_papers_formula(name: str, family: str, changes: dict[str, float]) -> None:
    """The loss equals the formula evaluated in numpy, row by row, without padding."""
    method = methods.get(name)
    model, batch, before = case(family)
    values = parameters(method, changes)
    expected = FORMULAS[name](plain_rows(model, FORGET), plain_rows(model, RETAIN), before, values)
    found = method.bind(values)(model, batch)
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", methods.names())
def test_formula_is_not_met_by_another_default(name: str) -> None:
    """Negative control: a parameter that is off by a tenth is seen, so no parameter is ignored."""
    method = methods.get(name)
    model, batch, before = case("llama")
    values = method.parse([])
    numbers = [parameter.name for parameter in method.parameters if parameter.type is float]
    assert numbers
    for changed in numbers:
        other = {**values, changed: float(values[changed]) * 1.1}
        expected = FORMULAS[name](plain_rows(model, FORGET), plain_rows(model, RETAIN), before, other)
        assert method.bind(values)(model, batch).item() != pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", methods.names())
def test_gradient_is_that_of_the_formula(name: str) -> None:
    """Along random directions the gradient equals a central difference of the numpy formula, in float64."""
    method = methods.get(name)
    model, batch, before = case("llama")
    values = parameters(method, SETTINGS[1])
    for module in model.modules():
        if type(module).__name__ == "LlamaRMSNorm":
            # transformers' own computes in float32, too coarse for differences.
            module.forward = partial(
                torch.nn.functional.rms_norm, normalized_shape=(32,), weight=module.weight, eps=1e-6
            )
    weights = list(model.parameters())
    method.bind(values)(model, batch).backward()
    start = [weight.detach().clone() for weight in weights]
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        direction = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
        slope = sum(float((w.grad * d).sum()) for w, d in zip(weights, direction, strict=True) if w.grad is not None)
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                for weight, origin, d in zip(weights, start, direction, strict=True):
                    weight.copy_(origin + step * d)
            ends.append(FORMULAS[name](plain_rows(model, FORGET), plain_rows(model, RETAIN), before, values))
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=5e-7)


@pytest.mark.parametrize("name", methods.names())
def test_a_step_along_the_gradient_forgets(name: str) -> None:
    """Following the loss downhill makes the forget rows less probable and, where retain rows count, not those."""
    method = methods.get(name)
    model, batch, _ = case("llama")
    batch["reference"]["forget_nll"] = torch.tensor([float(each.sum()) for each in plain_rows(model, FORGET)])
    forget, retain = mean(plain_rows(model, FORGET)), mean(plain_rows(model, RETAIN))
    method.bind(method.parse([]))(model, batch).backward()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.grad is not None:
                weight -= 1e-3 * weight.grad
    assert mean(plain_rows(model, FORGET)) > forget
    if "retain" in method.needs:
        assert mean(plain_rows(model, RETAIN)) < retain


@pytest.mark.parametrize("name", methods.names())
def test_only_declared_needs_are_read(name: str) -> None:
    """A loss runs on a batch that holds just what it declares, and without retain rows at alpha 0."""
    method = methods.get(name)
    model, batch, _ = case("llama")
    for values in (method.parse([]), parameters(method, {"alpha": 0})):
        needed = {"forget", *method.needs_with(values)}
        assert torch.isfinite(method.bind(values)(model, {key: batch[key] for key in needed}))
        for missing in needed:
            with pytest.raises(KeyError):
                method.bind(values)(model, {key: batch[key] for key in needed - {missing}})


def test_npo_starts_at_two_over_beta_log_two() -> None:
    """Where model and reference agree, NPO is (2/β) log 2 and its gradient that of gradient ascent on the row sums."""
    model, batch, _ = case("llama")
    batch["reference"]["forget_nll"] = torch.tensor(
        [float(each.sum()) for each in plain_rows(model, FORGET)], dtype=torch.float64
    )
    npo = methods.get("NPO")
    value = npo.bind(npo.parse(["alpha=0", "beta=0.25"]))(model, batch)
    assert value.item() == pytest.approx(8 * np.log(2), rel=1e-9)


def test_names_need_no_torch() -> None:
    """Listing the methods imports nothing heavy, and gives the names as users write them."""
    code = (
        "import sys; from mpu_cli.client import methods; print(*methods.names());"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {"GradAscent", "GradDiff", "NPO"} <= set(done.stdout.split())


@pytest.mark.parametrize("name", methods.names())
def test_every_method_is_declared_in_full(name: str) -> None:
    """Each is found in any spelling of its case, under the name it declares, with paper, formula and known needs."""
    method = methods.get(name)
    assert method == methods.get(name.upper()) == methods.get(name.lower())
    assert method.name == name
    assert method.paper.startswith("https://arxiv.org/abs/")
    assert method.formula
    assert method.needs <= {"retain", "reference"}
    assert all(parameter.type in (float, int, bool, str) for parameter in method.parameters)


def test_published_defaults() -> None:
    """The defaults are the published ones."""
    assert methods.get("GradAscent").parse([]) == {"gamma": 1.0}
    assert methods.get("GradDiff").parse([]) == {"gamma": 1.0, "alpha": 1.0, "retain_loss": "NLL"}
    assert methods.get("NPO").parse([]) == {"beta": 0.1, "gamma": 1.0, "alpha": 1.0, "retain_loss": "NLL"}


def test_unknown_method() -> None:
    """An unknown name is a usage error that names the nearest."""
    with pytest.raises(UsageError, match="--method graddif: unknown") as caught:
        methods.get("graddif")
    assert caught.value.hint == "did you mean GradDiff?"
    with pytest.raises(UsageError, match=r"--method \.\./npo"):
        methods.get("../npo")


def test_set_converts_by_type() -> None:
    """Values take the parameter's type, choices ignore case, white space is trimmed."""
    npo = methods.get("npo")
    assert npo.parse(["beta = 0.5", "gamma=2", "retain_loss=nll"]) == {
        "beta": 0.5,
        "gamma": 2.0,
        "alpha": 1.0,
        "retain_loss": "NLL",
    }


@pytest.mark.parametrize(
    ("assignment", "message", "hint"),
    [
        ("beta", "expected name=value", None),
        ("beta=", "expected name=value", None),
        ("=1", "expected name=value", None),
        ("beta=fast", "beta is a number", None),
        ("beta=nan", "beta must be finite", None),
        ("retain_loss=MSE", "retain_loss is one of NLL", None),
        ("betta=1", "NPO has no parameter 'betta'", "did you mean beta?"),
        ("x=1", "NPO has no parameter 'x'", "known: beta, gamma, alpha, retain_loss"),
    ],
)
def test_set_refuses(assignment: str, message: str, hint: str | None) -> None:
    """Each wrong assignment is a usage error that repeats it and says what is expected."""
    with pytest.raises(UsageError, match=message) as caught:
        methods.get("NPO").parse([assignment])
    assert caught.value.message.startswith(f"--set {assignment}")
    assert caught.value.hint == hint
    with pytest.raises(UsageError, match="beta is set twice"):
        methods.get("NPO").parse(["beta=1", "beta=2"])


def test_every_type_of_parameter_is_parsed() -> None:
    """Whole numbers and true/false follow the typed signature too."""

    @methods.method(name="Test", paper="", formula="")
    def declared(model: Any, batch: Any, *, count: int = 1, flag: bool = False) -> None:
        """No loss."""

    assert declared.parse(["count=3", "flag=True"]) == {"count": 3, "flag": True}
    for wrong in ("count=1.5", "flag=yes"):
        with pytest.raises(UsageError, match=wrong):
            declared.parse([wrong])


def test_retain_set_is_asked_for() -> None:
    """A method that needs a retain set says so; at alpha 0 it does not need one; GradAscent never does."""
    diff = methods.get("GradDiff")
    with pytest.raises(UsageError, match="GradDiff needs a retain set") as caught:
        diff.check_retain(diff.parse([]), has_retain=False)
    assert "--retain" in str(caught.value.hint)
    diff.check_retain(diff.parse([]), has_retain=True)
    diff.check_retain(diff.parse(["alpha=0"]), has_retain=False)
    ascent = methods.get("GradAscent")
    ascent.check_retain(ascent.parse([]), has_retain=False)


def test_a_broken_file_does_not_break_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method's file with a syntax error is listed by its file name and hinders no other."""
    for source in ("__init__.py", "npo.py"):
        (tmp_path / source).write_text((methods_directory() / source).read_text())
    (tmp_path / "draft.py").write_text("def loss(:")
    monkeypatch.setattr(methods, "__file__", str(tmp_path / "__init__.py"))
    assert methods.names() == ["draft", "NPO"]
    assert methods.get("NPO").name == "NPO"


def methods_directory() -> Path:
    """Where the methods' files are."""
    return Path(str(methods.__file__)).parent
