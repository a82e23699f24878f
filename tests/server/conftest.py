"""A server whose lineage grows over a test."""

import pytest
from two_parties import (
    change_all,
    publish,
    small_change,
    take_back,
)

from mpu_cli.server.lineage.models import Lineage


class Server:
    """A lineage under construction: numbered handoffs and updates, models by name."""

    def __init__(self, pair, root, entropy):
        self.pair, self.root, self.entropy, self.secret = pair, root, entropy, root / "server"
        self.count = 0

    def path(self, name):
        """A model by name; `root` is the first one."""
        return self.pair.model if name == "root" else self.root / name

    def perturb(self, model="root", **settings):
        """Hand a model out; returns the directory and its record(s)."""
        self.count += 1
        folder = self.root / f"handoff-{self.count}"
        records = publish(
            self.path(model), self.pair.base, folder, self.secret, self.entropy, **settings
        ).handoffs
        return folder, records[0] if len(records) == 1 else records

    def update(self, handed_out, model="root", number=0, share=0.01):
        """A client's answer: the same random change of every copy."""
        folder, record = handed_out
        self.count += 1
        out = self.root / f"update-{self.count}"
        change_all(
            self.secret,
            record,
            self.path(model),
            folder,
            out,
            small_change(self.pair.model, share, number),
        )
        return out

    def aggregate(self, updates, model="root", out="next", **settings):
        """Take updates back onto a model."""
        return take_back(updates, self.secret, self.path(model), self.root / out, **settings)

    @property
    def lineage(self):
        """What is on disk."""
        return Lineage.read(self.secret)


@pytest.fixture(scope="session")
def server_in(tiny_pair, entropy):
    """`server_in(root)`: the server whose directories lie in `root`."""
    return lambda root, number=1: Server(tiny_pair("llama"), root, entropy(number))


@pytest.fixture
def server(tiny_pair, tmp_path, entropy):
    """A server with a tiny Llama and nothing handed out yet."""
    return Server(tiny_pair("llama"), tmp_path, entropy(1))
