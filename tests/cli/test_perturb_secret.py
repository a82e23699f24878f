"""A mistyped or moved --secret never starts a second lineage of a model silently."""

import shutil

import pytest

from mpu_cli.server.lineage.model_card import Card, read_model_card

DIGEST = "0" * 64


@pytest.fixture
def perturb(mpu, own_round):
    """`perturb(model, *options)`: one copy with plain noise and no check, in a new handoff."""

    def call(model, *options):
        place = own_round.model.parent
        taken = sum(1 for _ in place.glob("again-*"))
        given = (
            "--base",
            own_round.base,
            "-m",
            1,
            "--check",
            "none",
            "--handoff",
            place / f"again-{taken}",
        )
        return mpu("perturb", model, *given, *options)

    return call


def refused(done, model, *lines):
    """Check that the command printed exactly this and wrote nothing."""
    assert done.code == 1
    assert done.err.splitlines() == [f"mpu: error: {lines[0]}", f"mpu: hint: {lines[1]}"]
    assert not list(model.parent.glob("again-*")) and not list(model.parent.glob(".again-*"))


def known_elsewhere(digest, model, there, here):
    """The message about a model that another secret knows."""
    return (
        (
            f"{model}: this model (digest {digest[:12]}…) is in the lineage of {there}, and {here}"
            " holds no lineage"
        ),
        (
            f"give --secret {there} to continue that lineage; to begin another, whose noise"
            f" averages away with the first's, give --new-lineage {here} instead of --secret"
        ),
    )


def digest_in(secret):
    """The digest of the only model of a lineage."""
    (record,) = (secret / "models").iterdir()
    return record.stem


@pytest.mark.parametrize("empty", [False, True])
def test_a_mistyped_secret_is_refused_and_the_right_one_named(perturb, own_round, empty):
    """Another name or an empty directory starts no lineage if a secret beside it knows it."""
    r = own_round
    wrong = r.secret.with_name("servre")
    if empty:
        wrong.mkdir(0o700)
    refused(
        perturb(r.model, "--secret", wrong),
        r.model,
        *known_elsewhere(digest_in(r.secret), r.model, r.secret, wrong),
    )
    assert not wrong.exists() or not list(wrong.iterdir())


def test_a_secret_elsewhere_is_found(perturb, own_round, tmp_path, monkeypatch):
    """Beside the model, beside the handoff, and by MPU_SECRET."""
    r = own_round
    far = tmp_path / "far" / "secret"
    said = known_elsewhere(digest_in(r.secret), r.model, r.secret, far)
    refused(perturb(r.model, "--secret", far), r.model, *said)  # beside the model and the handoff
    apart = tmp_path / "apart" / "model"
    shutil.copytree(r.model, apart)
    given = ("--secret", far, "--handoff", tmp_path / "apart" / "to-client")
    monkeypatch.setenv("MPU_SECRET", str(r.secret))
    refused(
        perturb(apart, *given), apart, *known_elsewhere(digest_in(r.secret), apart, r.secret, far)
    )
    monkeypatch.delenv("MPU_SECRET")
    assert not far.parent.exists()
    done = perturb(apart, *given)
    assert done.code == 0  # nothing that was named knows it


def test_an_aggregated_model_stays_in_its_lineage(mpu, perturb, own_round, tmp_path):
    """Its model card is enough if the secret was moved; a secret beside it is named."""
    r = own_round
    merged = r.model.with_name("model-next")
    assert (
        mpu("aggregate", r.update, "--secret", r.secret, "--model", r.model, "--out", merged).code
        == 0
    )
    wrong = r.secret.with_name("servre")
    card = read_model_card(merged)
    refused(
        perturb(merged, "--secret", wrong),
        merged,
        *known_elsewhere(card.digest, merged, r.secret, wrong),
    )
    moved = tmp_path / "moved" / "server"
    moved.parent.mkdir()
    r.secret.rename(moved)
    said = (
        (
            f"{merged}: its README.md says that mpu aggregate made it, so it has a lineage, and"
            f" {r.secret} holds none"
        ),
        (
            "give the directory of that lineage as --secret, and check its name; if the lineage is"
            f" not yours, give --new-lineage {r.secret} instead of --secret"
        ),
    )
    refused(perturb(merged, "--secret", r.secret), merged, *said)
    assert perturb(merged, "--secret", moved).code == 0


def test_a_new_lineage_gives_a_warning(perturb, own_round, tmp_path, mpu):
    """At the first use of a secret and with --new-lineage, also in JSON; not in later rounds."""
    r = own_round
    second = r.secret.with_name("server 2")
    done = perturb(r.model, "--new-lineage", second)
    assert done.code == 0
    begun, other = [line for line in done.err.splitlines() if "lineage" in line]
    assert (
        begun
        == f"mpu: warning: new lineage begun in {second}: its replay history, exposure and offset"
        f" start here; give --secret '{second}' in every later round"
    )
    assert f"this model has another lineage already: {r.secret}" in other
    alone = ("--handoff", tmp_path / "fresh" / "to-client", "-m", 1, "--check", "none")
    first = mpu(
        *("perturb", r.base, *alone, "--secret", tmp_path / "fresh" / "server", "--json"),
    )
    assert first.json["new_lineage"] is True
    assert first.json["warnings"][0].startswith(
        f"new lineage begun in {tmp_path / 'fresh' / 'server'}: "
    )
    later = perturb(r.model, "--secret", second, "--json")
    assert later.json["new_lineage"] is False
    assert not any("lineage begun" in line for line in later.json["warnings"])


CARDS = {
    "ours": (f"---\ntags:\n- unlearning\n- mpu\n---\n\n- digest: `{DIGEST}`\n", Card(DIGEST)),
    "with CR LF": (f"---\r\ntags:\r\n- mpu\r\n---\r\n- digest: `{DIGEST}`\r\n", Card(DIGEST)),
    "as the Hub's editor writes it": (
        '---\ntags: ["unlearning", "mpu"]\nlicense: mit\n---\nAbout.\n',
        Card(None),
    ),
    "quoted": ("---\ntags:\n  - 'mpu'\n---\n", Card(None)),
    "of something else": ("---\ntags:\n- gpu\n- mpu-like\n---\n- mpu\n", None),
    "another key": ("---\nbase_model: org/mpu\n---\ntags: [mpu]\n", None),
    "no front matter": ("# About mpu\n\n- mpu\n", None),
    "not ended": ("---\ntags:\n- mpu\n", None),
    "not UTF-8": ("---\ntags:\n- mpu\n---\n\udcff", Card(None)),
    "empty": ("", None),
}


@pytest.mark.parametrize("case", CARDS)
def test_our_model_card_is_known_by_its_tag(case, tmp_path):
    """In any layout of the file; the word in another place is not the tag."""
    text, expected = CARDS[case]
    (tmp_path / "README.md").write_bytes(text.encode(errors="surrogateescape"))
    assert read_model_card(tmp_path) == expected


def test_an_unreadable_card_is_ignored(tmp_path):
    """No file, a folder, or a link to the outside: nothing is followed, and nothing fails."""
    assert read_model_card(tmp_path) is None
    (tmp_path / "folder" / "README.md").mkdir(parents=True)
    assert read_model_card(tmp_path / "folder") is None
    (tmp_path / "outside").write_text(CARDS["ours"][0])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").symlink_to(tmp_path / "outside")
    assert read_model_card(tmp_path / "model") is None
