"""The commands of docs/signatures.md: a hospital and a vendor, five commands each."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest
from rounds import QUICK
from test_documented_commands import HOME

PAGE = HOME / "docs" / "signatures.md"
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


def parties() -> list[list[list[str]]]:
    """The commands of the vendor, then those of the hospital."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.M)
    return [[shlex.split(line) for line in block.splitlines()] for block in blocks]


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_a_hospital_and_a_vendor_sign_and_pin(own_round, mpu, tmp_path, monkeypatch):
    """As printed; each reads the other's fingerprint in its own verify, and pins the right key."""
    vendor, hospital = parties()
    assert len(vendor) == len(hospital) == 5
    desks = {"vendor": tmp_path / "vendor", "hospital": tmp_path / "hospital"}
    for desk in desks.values():
        desk.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    monkeypatch.delenv("MPU_TRUST_FILE", raising=False)
    shutil.copytree(own_round.model, desks["vendor"] / "model")
    shutil.copytree(own_round.base, desks["vendor"] / "base")
    for rows in (own_round.forget, own_round.retain):
        shutil.copy(rows, desks["hospital"])

    def play(who: str, words: list[str]) -> str:
        monkeypatch.chdir(desks[who])
        if words[0] == "ssh-keygen":
            return subprocess.run(words, check=True, capture_output=True, text=True).stdout
        done = mpu(*words[1:], *(QUICK if words[1] == "unlearn" else ()))
        assert done.code == 0, (words, done.err)
        return done.out

    _, of_vendor, _ = [play("vendor", words) for words in vendor[:3]]
    shutil.copytree(desks["vendor"] / "to-client", desks["hospital"] / "to-client")
    _, of_hospital, checked, trained, _ = [play("hospital", words) for words in hospital]
    (key_of_vendor,) = FINGERPRINT.findall(of_vendor)
    (key_of_hospital,) = FINGERPRINT.findall(of_hospital)
    assert FINGERPRINT.findall(checked) == [key_of_vendor]
    assert f"signed by model-owner (ED25519 {key_of_vendor})" in trained
    shutil.copytree(desks["hospital"] / "to-server", desks["vendor"] / "to-server")
    checked, aggregated = [play("vendor", words) for words in vendor[3:]]
    assert FINGERPRINT.findall(checked) == [key_of_hospital]
    assert f"signed by hospital (ED25519 {key_of_hospital})" in aggregated
    pinned = (tmp_path / "configuration" / "mpu" / "allowed_signers").read_text()
    assert pinned.startswith('model-owner namespaces="mpu-handoff-v1" ssh-ed25519 ')
    pinned = (desks["vendor"] / "server" / "allowed_signers").read_text()
    assert pinned.startswith('hospital namespaces="mpu-update-v1" ssh-ed25519 ')
