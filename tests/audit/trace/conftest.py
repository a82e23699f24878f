"""A lineage of twenty handoffs over two rounds, published once; tests must not change it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from two_parties import change_all, publish, small_change, take_back

from mpu_cli.audit.trace.open_case import open_case
from mpu_cli.audit.trace.settings import TraceSettings
from mpu_cli.audit.trace.trace import trace

SIZES = {"hidden_size": 64, "intermediate_size": 160}
DRAWS = {
    "plain": {},
    "plain-2": {"copies": 2},
    "split": {"copies": 4, "split": True},
    "line": {"copies": 2, "denoising": "extrapolation"},
    "single": {"copies": 1},
    "unmoved": {"reparam": "none"},
    "turned": {"reparam": "rotation"},
}
"""Ten handoffs of a round: a split has one for each copy."""


@dataclass
class Town:
    """The server's directory, and everything that it handed out, by round and kind."""

    root: Path
    model: Path
    base: Path
    later: Path
    handoffs: dict = field(default_factory=dict)
    """(directory, record) by "1 plain", "2 split-3" and so on."""

    @property
    def secret(self) -> Path:
        """The server's secret directory."""
        return self.root / "server"

    def copy(self, name, number=1) -> Path:
        """A published copy."""
        return self.handoffs[name][0] / f"copy-{number}"

    def trace(self, path, *, model=None, base=None, secret=None, **settings):
        """`mpu audit trace` through the library."""
        [result] = self.trace_all([path], model=model, base=base, secret=secret, **settings)
        return result

    def trace_all(self, paths, *, model=None, base=None, secret=None, **settings):
        """Several found models at once."""
        opened = [
            open_case(path, secret or self.secret, model, base, TraceSettings(**settings))
            for path in paths
        ]
        return trace([item.found for item in opened], opened[0].case)

    def named(self, result):
        """{("1 plain", "copy-2"): share} of a result."""
        labels = {record.id: name for name, (_, record) in self.handoffs.items()}
        return {
            (labels[item.suspect.handoff], item.suspect.copy): item.share for item in result.named
        }


def hand_out(town, turn, model, entropy):
    """One round: ten handoffs of a model."""
    for kind, settings in DRAWS.items():
        folder = town.root / f"{turn}-{kind}"
        settings = {"client": f"client of {kind}", **settings}
        records = publish(model, town.base, folder, town.secret, entropy, **settings).handoffs
        for number, record in enumerate(records, start=1):
            several = len(records) > 1
            name = f"{turn} {kind}-{number}" if several else f"{turn} {kind}"
            place = folder / f"holder-{number}" if several else folder
            town.handoffs[name] = (place, record)


@pytest.fixture(scope="session")
def town(tiny_pair, tmp_path_factory) -> Town:
    """See the top of this file."""
    from mpu_cli.server.secrets.secret import PreparedEntropy

    pair, root = tiny_pair("llama", **SIZES), tmp_path_factory.mktemp("town")
    made = Town(root, pair.model, pair.base, root / "later")
    entropy = PreparedEntropy(bytes(range(32)))
    hand_out(made, 1, pair.model, entropy)
    handoff, record = made.handoffs["1 plain"]
    change = small_change(pair.model)
    change_all(made.secret, record, pair.model, handoff, root / "update", change)
    take_back(root / "update", made.secret, pair.model, made.later)
    hand_out(made, 2, made.later, entropy)
    assert len(made.handoffs) == 20
    return made
