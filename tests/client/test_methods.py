"""The registry around the unlearning methods: finding, describing, parsing, checking."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from method_cases import FOLDER, method_case, required, values_of

from mpu_cli.client import methods
from mpu_cli.errors import MpuWarning, UsageError
from mpu_cli.training.loss_inputs import LOSS_INPUTS, hidden_layer
from mpu_cli.training.settings import TrainingSettings

NAMES = methods.names()

SHOWN = {
    "optimizer",
    "learning_rate",
    "epochs",
    "batch_size",
    "gradient_accumulation",
    "lr_scheduler",
    "warmup_ratio",
    "weight_decay",
}


def test_names_need_no_torch() -> None:
    """Listing, describing, parsing and checking import nothing heavy."""
    code = (
        "import sys; from mpu_cli.client import methods; print(*methods.names());info ="
        " methods.find('gradDIFF'); info.check(info.parse(['gamma=2']), has_retain=True,"
        " has_alternates=False);assert [each.name for each in methods.describe()] =="
        " methods.names();assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_description_is_what_the_file_declares(name: str) -> None:
    """What is read from the source equals what importing the file gives."""
    described, imported = methods.find(name), methods.get(name)
    for field in (
        "name",
        "paper",
        "formula",
        "inputs",
        "parameters",
        "recommended",
        "recommended_by",
    ):
        assert getattr(described, field) == getattr(imported, field)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_is_declared_in_full(name: str) -> None:
    """Each is found in any case, and has paper, formula, known inputs, settings and bounds."""
    method = methods.get(name)
    assert method == methods.get(name.upper()) == methods.get(name.lower())
    assert method.name == name
    assert method.paper.startswith("https://arxiv.org/abs/")
    assert method.formula
    assert method.inputs <= set(LOSS_INPUTS)
    assert all(parameter.type in (float, int, bool, str) for parameter in method.parameters)
    if method_case(name).recommended:
        recommended = dict(method.recommended)
        TrainingSettings(**recommended)
        assert set(recommended) == SHOWN
        assert method.recommended_by
        # A warm-up of one epoch, in all of them.
        assert recommended["warmup_ratio"] * recommended["epochs"] == 1
    assert all(parameter.source for parameter in method.parameters), "where was this default read?"
    unset = {parameter.name for parameter in method.parameters if parameter.default is None}
    assert unset == set(method_case(name).required)


@pytest.mark.parametrize("name", NAMES)
def test_published_defaults(name: str) -> None:
    """The defaults are the published ones, not one default for all."""
    assert values_of(methods.find(name)) == method_case(name).published


def test_every_case_is_that_of_a_method() -> None:
    """A method whose file is gone or broken leaves its test file behind."""
    cases = {path.stem.removeprefix("test_") for path in FOLDER.glob("test_*.py")}
    assert cases == {methods._find(name).stem for name in NAMES}


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
        ("retain_loss=MSE", "retain_loss is one of NLL, KL", None),
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


def test_what_is_missing_is_asked_for() -> None:
    """A missing retain set or alternate is refused early, if the parameters make it count."""

    def check(
        name: str,
        *assignments: str,
        retain: bool,
        alternates: bool = False,
        unanswerable: bool = False,
    ) -> None:
        info = methods.find(name)
        info.check(
            info.parse([*required(name), *assignments]),
            has_retain=retain,
            has_alternates=alternates,
            has_unanswerable=unanswerable,
        )

    with pytest.raises(UsageError, match="GradDiff needs a retain set") as caught:
        check("GradDiff", retain=False)
    assert caught.value.hint == "add --retain FILE, or --set alpha=0 to train without one"
    check("GradDiff", retain=True)
    for name in ("GradDiff", "NPO", "RMU", "SimNPO", "WGA", "SatImp"):
        check(name, "alpha=0", retain=False)
    for name in ("GradAscent", "CE-U", "UnDIAL"):
        check(name, retain=False)
    with pytest.raises(UsageError, match="UnDIAL needs a retain set"):
        check("UnDIAL", "alpha=0.5", retain=False)
    with pytest.raises(UsageError, match="PDU needs a retain set") as caught:
        check("PDU", retain=False)
    assert caught.value.hint == "add --retain FILE"
    with pytest.raises(UsageError, match="LUNAR needs questions that the model refuses") as caught:
        check("LUNAR", retain=True)
    assert caught.value.hint == "add --unanswerable FILE"
    check("LUNAR", retain=True, unanswerable=True)
    check("LUNAR", "alpha=0", retain=False, unanswerable=True)
    with pytest.raises(UsageError, match="--unanswerable: NPO has no use") as caught:
        check("NPO", retain=True, unanswerable=True)
    assert caught.value.exit_code == 2 and caught.value.hint
    for name in ("DPO", "AltPO"):
        with pytest.raises(
            UsageError, match=f"{name} needs an alternate answer to each forget row"
        ) as caught:
            check(name, retain=True)
        assert "--refusals" in str(caught.value.hint)
        check(name, "alpha=0", retain=False, alternates=True)


def test_needs_follow_the_parameters() -> None:
    """KL reads retain logits, alpha 0 no retain rows, RMU the hidden states of its layer."""

    def needs(name: str, *assignments: str) -> frozenset[str]:
        info = methods.find(name)
        return info.inputs_with(info.parse([*required(name), *assignments]))

    assert needs("NPO") == {"forget_nll", "retain"}
    assert needs("NPO", "retain_loss=KL") == {"forget_nll", "retain", "retain_logits"}
    assert needs("NPO", "retain_loss=KL", "alpha=0") == {"forget_nll"}
    assert needs("UnDIAL") == {"forget_logits"}
    assert needs("UnDIAL", "alpha=1") == {"forget_logits", "retain"}
    assert needs("DPO") == {"forget_nll", "alternate_nll", "alternate", "retain"}
    assert needs("PDU") == {"retain"}
    assert hidden_layer(needs("RMU", "layer=5")) == 5
    assert hidden_layer(needs("RMU")) == -1
    assert needs("RMU", "alpha=0") == {"hidden:-1"}
    assert hidden_layer(needs("NPO")) is None
    shared = {"hidden:-2", "hidden_down", "direction", "forget_prompt_hidden"}
    assert needs("LUNAR") == shared | {"retain", "retain_prompt_hidden"}
    assert needs("LUNAR", "alpha=0") == shared


def test_a_parameter_without_default_must_be_set() -> None:
    """PDU's epsilon is the user's to choose, and that is said."""
    with pytest.raises(UsageError, match="PDU needs a value for epsilon") as caught:
        methods.find("PDU").parse(["gamma=2"])
    assert "--set epsilon=VALUE" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "assignment", "message"),
    [
        ("NPO", "beta=0", "beta must be > 0"),
        ("SimNPO", "beta=-1", "beta must be > 0"),
        ("CE-U", "ignore_first=-1", "ignore_first must be >= 0"),
        ("CE-U", "ignore_first=1.5", "ignore_first is a whole number"),
        ("PDU", "epsilon=-0.1", "epsilon must be >= 0"),
        ("LUNAR", "c=0", "c must be > 0"),
    ],
)
def test_bounds(name: str, assignment: str, message: str) -> None:
    """What would divide by zero or mean nothing is refused with the flag."""
    with pytest.raises(UsageError, match=f"--set {assignment}: {message}"):
        methods.find(name).parse([assignment])


def test_a_broken_file_is_named_and_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method's file with a syntax error hinders no other."""
    (tmp_path / "npo.py").write_text((methods_directory() / "npo.py").read_text())
    (tmp_path / "draft.py").write_text("def loss(:")
    monkeypatch.setattr(methods._METHODS, "directory", tmp_path)
    with pytest.warns(MpuWarning, match=r"draft\.py: line 1: .*; this method is skipped"):
        assert methods.names() == ["NPO"]
    with pytest.warns(MpuWarning, match="draft"):
        assert [info.name for info in methods.describe()] == ["NPO"]
    with pytest.warns(MpuWarning, match="draft"):
        assert methods.get("NPO").name == "NPO"


def methods_directory() -> Path:
    """Where the methods' files are."""
    return Path(str(methods.__file__)).parent
