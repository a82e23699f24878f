"""Plans that come with mpu: the runs of the paper's authors, for the user's own models and rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mpu_cli import __version__
from mpu_cli.checkpoint.locate import is_hub_id, locate
from mpu_cli.checkpoint.model import read_json
from mpu_cli.client.preset import PROMPTING
from mpu_cli.data.formats import SUFFIXES
from mpu_cli.errors import BadDataError
from mpu_cli.experiment.plan.commands import Commands
from mpu_cli.experiment.plan.document import Document, parse_document
from mpu_cli.experiment.plan.read import plan_of
from mpu_cli.experiment.plan.schema import ExperimentPlan

PresetName = Literal["paper-tofu", "paper-muse"]
HUB: dict[PresetName, str] = {
    "paper-tofu": "hf://datasets/locuslab/TOFU",
    "paper-muse": "hf://datasets/muse-bench/MUSE-News",
}
"""Where the Hub has the rows of each preset."""
_SHARD = "-00000-of-00001.parquet"
_ON_HUB: dict[PresetName, str] = {"paper-tofu": ".json", "paper-muse": _SHARD}
"""How the names of the Hub's files end."""
_OPTIONAL = frozenset({"refusals"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetModels:
    """The user's models, each a directory or a Hub id."""

    model: str
    retain_model: str | None = None
    base: str | None = None


def preset_plan(
    name: PresetName, models: PresetModels, data: str, commands: Commands
) -> ExperimentPlan:
    """The plan of a preset.

    The first data split that is there is used. Methods whose rows are missing are left out: DPO
    needs refusals, which the Hub's TOFU does not have.

    Args:
        name: the preset.
        models: the model that knows the rows, its base, and one that never saw the forget set.
        data: a directory with the benchmark's files under their own names, or an
            hf://datasets/org/name[@revision] location.
        commands: the options of the commands.

    Raises:
        BadDataError: a file is missing.
        BadModelError: the model is missing.
    """
    text = Path(__file__).with_name(f"{name}.yaml").read_bytes()
    content = dict(parse_document(text, f"preset {name}").content)
    rows = _Rows(name, data)
    split = rows.split(content["data"])
    content["data"] = {split: rows.found(content["data"][split])}
    if "refusals" not in content["data"][split]:
        grid = dict(content["grid"])
        grid["method"] = [method for method in grid["method"] if method != "DPO"]
        content["grid"] = grid
        content["methods"] = {
            name: own for name, own in content["methods"].items() if name != "DPO"
        }
    for key in ("model", "retain_model", "base"):
        if (given := getattr(models, key)) is not None:
            content[key] = (
                given if is_hub_id(given) and not Path(given).exists() else _absolute(given)
            )
    if name == "paper-tofu" and _has_chat_template(models.model):
        # unlearn --preset paper trains with these prompts; a model is asked as it was trained.
        content["eval"] = {
            "system_prompt": PROMPTING["system"],
            "template_date": PROMPTING["date"],
        }
    return plan_of(
        Document(f"preset {name}", content, data=_text(name, content)), Path.cwd(), commands
    )


def _text(name: PresetName, content: dict[str, Any]) -> bytes:
    """The plan as a file that `mpu run` reads: the preset with the user's models and rows."""
    import yaml

    separate = json.loads(json.dumps(content))  # a plan has no anchors
    plan = yaml.safe_dump(separate, sort_keys=False, allow_unicode=True)
    return f"# mpu run --preset {name}, mpu {__version__}\n{plan}".encode()


def _has_chat_template(model: str) -> bool:
    directory = locate(model).path
    if (directory / "chat_template.jinja").exists():
        return True
    settings = directory / "tokenizer_config.json"
    return settings.exists() and bool(read_json(settings).get("chat_template"))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The files of a benchmark."""

    preset: PresetName
    data: str

    def split(self, splits: dict[str, Any]) -> str:
        """The first split whose forget rows are there; the first of all on the Hub."""
        names = list(splits)
        return next((name for name in names if self._find(splits[name]["forget"])), names[0])

    def found(self, split: dict[str, Any]) -> dict[str, Any]:
        """The split with the files that its names stand for."""
        result: dict[str, Any] = {}
        for role, names in split.items():
            if isinstance(names, dict):
                result[role] = self.found(names)
            elif (file := self._find(names)) is not None:
                result[role] = file
            elif role not in _OPTIONAL:
                wanted = " or ".join(f"{name}.json" for name in names.split("|"))
                raise BadDataError(
                    f"{self.data}: no {wanted}",
                    f"the preset reads files by the benchmark's own names; endings: {SUFFIXES}",
                )
        return result

    def _find(self, names: str) -> str | None:
        if self.data.startswith("hf://"):
            if names in {"idontknow"}:
                return None
            return f"{self.data.rstrip('/')}/{names.partition('|')[0]}{_ON_HUB[self.preset]}"
        directory = Path(self.data)
        endings: Sequence[str] = (".jsonl", ".json", ".txt", ".csv", ".parquet", _SHARD)
        paths = (directory / f"{name}{end}" for name in names.split("|") for end in endings)
        return next((_absolute(str(path)) for path in paths if path.is_file()), None)


def _absolute(text: str) -> str:
    return str(Path(text).absolute())
