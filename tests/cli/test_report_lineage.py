"""`mpu report SECRET`: the owner's dossier, and what it keeps to itself."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pages import check_page
from rounds import quietly

KAPPA, ALPHAS, OFFSET, RATE = 0.0731, (1.2371, 1.9137), 0.04173, 0.8713
HOLDER = "<i>Zebedee</i> \u202e"
RECORDS = ("first", "second", "copied", "foreign")
OPEN = {
    *("id", "digest", "model", "parent", "updates", "handoffs", "holder", "date", "state", "kind"),
    *("lineage", "format", "name", "origin", "source"),
}
"""Keys of records whose values the dossier shows."""


@pytest.fixture(scope="module")
def lineage(finished_round, tmp_path_factory) -> Path:
    """A secret with one model aggregated; its numbers occur nowhere else by chance."""
    r, root = finished_round, tmp_path_factory.mktemp("lineage")
    handoff, secret, update = (root / name for name in ("to-client", "server", "to-server"))
    noise = ("--kappa", KAPPA, "--alphas", ",".join(map(str, ALPHAS)), "--offset", OFFSET, "-m", 2)
    places = ("--handoff", handoff, "--secret", secret, "--client", HOLDER)
    assert quietly(("perturb", r.model, "--base", r.base, *noise, *places, "--check", "none")) == 0
    rows = ("--forget", r.forget, "--retain", r.retain, "--max-steps", 1, "--device", "cpu")
    assert quietly(("unlearn", handoff, *rows, "--out", update)) == 0
    made = ("--secret", secret, "--model", r.model, "--min-agreement=-1")
    for name, rate in (("next", RATE), ("other", 0.5)):  # two candidates of one update
        rate_and_place = ("--server-lr", rate, "--out", root / name)
        assert quietly(("aggregate", update, *made, *rate_and_place)) == 0
    for name, model in (
        ("first", r.model),
        ("second", root / "next"),
        ("copied", handoff / "copy-1"),
        ("foreign", r.base),
    ):
        asked = ("--forget", r.forget, "--no-generate", "--device", "cpu")
        assert quietly(("eval", model, *asked, "--record", root / name)) == 0
    return root


def secrets(directory: Path) -> Iterator[str]:
    """Every number and text of the secret and its records that is not for the dossier."""
    for path in directory.rglob("*.yaml"):
        yield from _scalars(yaml.safe_load(path.read_text()), "")


def _scalars(value: object, key: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _scalars(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _scalars(part, key)
    elif key not in OPEN and isinstance(value, float | str):
        yield str(value)
        if isinstance(value, float):
            yield from (f"{value:g}", f"{value:.4f}", f"{value:.3g}")


def tell_tale(text: str) -> bool:
    """Whether a text could not stand on a page by chance."""
    if re.fullmatch(r"-?[\d.e+-]+", text):
        return len(re.sub(r"\D", "", text).strip("0")) > 2
    return len(text) > 10


def test_the_dossier_of_a_lineage(mpu, lineage, tmp_path):
    """Models, who got what, what came back, exposure, evaluations; and no secret."""
    out = tmp_path / "dossier.html"
    given = [word for name in RECORDS for word in ("--records", lineage / name)]
    done = mpu("report", lineage / "server", *given, "--out", out, "--csv", tmp_path / "csv")
    assert done.code == 0, done.err
    text = out.read_text()
    found = check_page(text)
    told = mpu("inspect", lineage / "server", "--json").json
    for model in told["models"]:
        assert model["digest"] in text
    (handoff,) = told["handoffs"]
    assert handoff["id"] in text and "&lt;i&gt;Zebedee&lt;/i&gt; \\u202e" in text
    assert "i" not in found.tags
    assert f"{told['exposure']['by_holder'][HOLDER]:.2g}" in text
    assert "foreign: measured a model that is not in this lineage" in text
    assert "evaluated: copied (of a published copy)" in text
    assert len(told["models"]) == 3 and text.count(f"made from {told['head'][:12]}…") == 2
    assert f"No record was given of: {told['models'][2]['digest'][:12]}…" in text
    value = json.loads((lineage / "second" / "summary.json").read_text())["values"]["forget"]
    evaluations = (tmp_path / "csv" / "evaluations.csv").read_text()
    assert repr(value["answer_probability"]["value"]) in evaluations

    hidden = [it for it in secrets(lineage / "server") if tell_tale(it)]
    assert {str(KAPPA), str(OFFSET), str(RATE), *map(str, ALPHAS)} <= set(hidden)
    pages = text + "".join(path.read_text() for path in (tmp_path / "csv").glob("*.csv"))
    assert [it for it in hidden if it in pages] == []
    assert "harmonic" not in pages and "permutation" not in pages


def test_what_is_disclosed_when_asked(mpu, lineage, tmp_path):
    """α, κ, offset and the server's learning rate; the master secret and σ never."""
    out = tmp_path / "dossier.html"
    assert mpu("report", lineage / "server", "--disclose", "--out", out).code == 0
    text = out.read_text()
    for number in (KAPPA, OFFSET, RATE, *ALPHAS):
        assert f"{number:g}" in text
    secret = yaml.safe_load((lineage / "server" / "secret.yaml").read_text())
    record = next((lineage / "server" / "handoffs").iterdir()).read_text()
    sigma = yaml.safe_load(record)["sigma"].values()
    assert secret["master"] not in text
    assert not any(str(value) in text for value in sigma)


def test_a_changed_secret_makes_no_page(mpu, lineage, tmp_path):
    """Its HMAC is checked first; a page inside the secret is refused."""
    secret = Path(shutil.copytree(lineage / "server", tmp_path / "server"))
    inside = mpu("report", secret, "--out", secret / "page.html")
    assert inside.code == 2 and "is inside" in inside.err
    (record,) = (secret / "handoffs").iterdir()
    record.write_text(record.read_text().replace("Zebedee", "Zebedeo"))
    done = mpu("report", secret, "--out", tmp_path / "page.html")
    assert done.code == 3 and record.name in done.err
    assert not (tmp_path / "page.html").exists()
