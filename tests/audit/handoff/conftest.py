"""Handoffs of the demo's model, which has a trained task vector, and how to audit them."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "cli"))

from rounds import Done, quietly
from two_parties import publish

from mpu_cli.demo.demonstration import assets


class Owner:
    """A model owner with the demo's model and base in a directory."""

    def __init__(self, root, entropy, capsys):
        self.root, self.entropy, self.capsys = root, entropy, capsys
        self.model, self.base, self.secret = assets() / "model", assets() / "base", root / "secret"
        self.count = 0

    def perturb(self, *, base=True, model=None, secret=None, **settings):
        """Hand the model out; the directories of the handoffs."""
        self.count += 1
        folder = self.root / f"handoff-{self.count}"
        publish(
            model or self.model,
            self.base if base else None,
            folder,
            secret or self.secret,
            self.entropy,
            **settings,
        )
        return sorted(folder.glob("holder-*")) or [folder]

    def audit(self, *handoffs, options=(), behaviour=False, **named):
        """`mpu audit handoff … --json`: exit code, output and errors."""
        options = (*options, *(() if behaviour else ("--no-behaviour",)))
        named = {"secret": self.secret, "model": self.model, **named}
        words = [word for name, value in named.items() for word in (f"--{name}", value)]
        self.capsys.readouterr()
        code = quietly(("audit", "handoff", *handoffs, *words, *options, "--json"))
        return Done(code, *self.capsys.readouterr())

    def rows(self, *handoffs, **more):
        """The rows of an audit that must succeed, by pool."""
        done = self.audit(*handoffs, **more)
        assert done.code == 0, done.out
        return {row["pool"]: row for row in done.json["rows"]}


@pytest.fixture
def owner(tmp_path, entropy, capsys):
    """See `Owner`."""
    return Owner(tmp_path, entropy(7), capsys)


@pytest.fixture
def own_base(owner):
    """A copy of the base that a test may remove."""
    owner.base = Path(shutil.copytree(owner.base, owner.root / "base"))
    return owner
