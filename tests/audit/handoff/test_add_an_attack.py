"""docs/how-to/add-an-attack.md: the file that the page shows is all that an attack takes."""

import importlib.util
import re
from pathlib import Path

from mpu_cli.audit.handoff.attacks import ATTACKS, all_attacks
from mpu_cli.audit.handoff.attacks._attack import Attack
from mpu_cli.registry import Registry

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "add-an-attack.md"


def test_the_page_adds_an_attack(owner, tmp_path, monkeypatch):
    """The median of three copies runs beside the others, and is no better than their mean."""
    folder = tmp_path / "attacks"
    folder.mkdir()
    code = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)[1]
    (folder / "median.py").write_text(code)

    def read(path):
        spec = importlib.util.spec_from_file_location("attack_of_the_page", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return [value for value in vars(module).values() if isinstance(value, Attack)]

    added = Registry("attack", folder, read).entries()
    both = {**all_attacks(), **added}
    assert set(added) == {"median"} and set(ATTACKS.files()) <= {*map(key, both)}
    monkeypatch.setattr("mpu_cli.audit.handoff.audit.all_attacks", lambda: both)
    (handoff,) = owner.perturb(kappa=0.1)
    rows = owner.rows(handoff, options=("--layers", "1"))
    tried = {it["attack"]: it["error"] for it in rows["handoff-1"]["attempts"]}
    assert 0.01 < tried["median"] < 0.2
    assert not [it for it in rows["handoff-1/copy-1"]["attempts"] if it["attack"] == "median"]


def key(name):
    """The file of an attack."""
    return name.lower().replace(" ", "_")
