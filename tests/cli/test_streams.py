"""Output to terminals, logs and pipes: other encodings, closed, full, or without a reader."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mpu_cli
from mpu_cli.cli import app
from mpu_cli.cli.app import run
from mpu_cli.cli.streams import printable

ENCODINGS = ["ascii", "latin-1", "cp1252", "cp850", "koi8-r", "utf-8"]


@pytest.fixture(scope="module")
def our_signs() -> set[str]:
    """Every character of every text in the source."""
    trees = [
        ast.parse(path.read_text(encoding="utf-8"))
        for path in Path(mpu_cli.__file__).parent.rglob("*.py")
    ]
    constants = (
        node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)
    )
    return {letter for value in constants if isinstance(value, str) for letter in value}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_symbol_has_a_plain_form(encoding, our_signs):
    """No message, table or help text becomes a question mark in any encoding."""
    assert len(our_signs) > 100
    assert {letter for letter in our_signs if printable(letter, encoding) == "?"} == {"?"}
    assert all(
        printable(letter, encoding).encode(encoding) or letter in "\u0302\u0304"
        for letter in our_signs
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("κ = 0.1 → θ – ε ≤ 1 · ‖Δ̄‖", "kappa = 0.1 -> theta - epsilon <= 1 * ||Delta||"),
        ("Größe, ĉu", "Große, cu"),
        ("数据 данные 🙂", "?? ?????? ?"),
        ("b\udcff", "b\\xff"),
        ("plain", "plain"),
    ],
)
def test_what_ascii_lacks_is_replaced(text, shown):
    """Symbols become names, accents are dropped, other scripts are question marks, bytes \\xNN."""
    shown = shown.replace("ß", "?")  # has no accent to lose
    assert printable(text, "ascii") == shown
    assert printable("b\udcff κ", "utf-8") == "b\\xff κ"


class _Bytes(io.BytesIO):
    """Keeps its content when its text stream is closed."""

    def close(self) -> None:
        pass


@pytest.fixture
def shell(monkeypatch):
    """`shell(encoding, *arguments, tty=False)` → (exit code, stdout, stderr) in this encoding."""

    def call(encoding, *arguments, tty=False):
        raw = _Bytes(), _Bytes()
        for name, target in zip(("stdout", "stderr"), raw, strict=True):
            stream = io.TextIOWrapper(target, encoding=encoding, write_through=True)
            stream.isatty = lambda: tty
            monkeypatch.setattr(sys, name, stream)
        code = run([str(argument) for argument in arguments])
        return code, *(target.getvalue().decode(encoding) for target in raw)

    return call


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_commands_end_well_in_every_encoding(encoding, shell, finished_round, tmp_path):
    """Results, warnings, errors, help and JSON; the written files are the same."""
    r = finished_round
    given = ("--base", r.base, "-m", 2, "--secret", tmp_path / "s")
    code, out, err = shell(
        encoding, "perturb", r.model, *given, "--handoff", tmp_path / "h", tty=True
    )
    assert (code, "internal" in err) == (0, False), err
    assert "handoff" in out
    assert shell(encoding, "inspect", r.model)[0] == 0
    code, out, _ = shell(encoding, "unlearn", "--help")
    assert code == 0
    assert "?" not in out.replace("[0.0<=x<=1.0]", "")
    code, _, err = shell(encoding, "inspect", tmp_path / "θ→数")
    assert code == 3
    assert err.startswith("mpu: error: ") and err.splitlines()[0].endswith("no such directory")
    code, out, _ = shell(encoding, "inspect", tmp_path / "θ→数", "--json")
    assert "θ→数" in json.loads(out)["error"]["message"]  # JSON escapes: no value changes
    assert (
        shell(
            encoding,
            "aggregate",
            r.update,
            "--secret",
            tmp_path / "nowhere",
            "--model",
            r.model,
            "--out",
            tmp_path / "n",
        )[0]
        == 3
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_progress_bars_in_every_encoding(encoding, shell, finished_round, tmp_path):
    """Live bars on a terminal without Unicode, in training and elsewhere."""
    r = finished_round
    quick = ("--method", "GradAscent", "--max-steps", "2", "--device", "cpu")
    code, out, err = shell(
        encoding,
        "unlearn",
        r.handoff,
        "--forget",
        r.forget,
        *quick,
        "--out",
        tmp_path / "u",
        tty=True,
    )
    assert (code, "copy-2" in err) == (0, True), err
    assert "next" in out


BROKEN = {
    "full": lambda: open("/dev/full", "w", encoding="utf-8"),  # noqa: SIM115
    "closed": lambda: None,
    "closed by somebody": lambda: _closed(),
}


def _closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("json_", [(), ("--json",)])
@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect",),
        ("--help",),
        ("--version",),
        ("inspect", "--help"),
        ("unlearn", "--list-methods"),
    ],
)
def test_a_result_that_cannot_be_printed_is_one_line(
    name, json_, arguments, finished_round, monkeypatch, capsys
):
    """Exit code 3; the message on stderr names standard output, even with --json."""
    command = [*arguments, *([str(finished_round.handoff)] if arguments == ("inspect",) else [])]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", BROKEN[name]())
        code = run([*command, *json_] if arguments[0] not in {"--help", "--version"} else command)
    err = capsys.readouterr().err.splitlines()
    assert code == 3
    assert err[0].startswith("mpu: error: standard output: ")
    assert err[1:] == [
        "mpu: hint: redirect standard output to another file; the files that the command wrote are"
        " complete"
    ]


@pytest.mark.parametrize("name", BROKEN)
def test_an_error_goes_to_stderr_if_json_cannot_be_printed(name, tmp_path, monkeypatch, capsys):
    """With its own exit code and message."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", BROKEN[name]())
        assert run(["verify", str(tmp_path / "absent"), "--json"]) == 3
        patch.setattr(sys, "stdout", BROKEN[name]())
        assert run(["perturb", "--kapa", "1", "--json"]) == 2
    err = capsys.readouterr().err
    assert "absent: no such directory" in err
    assert "--kapa" in err
    assert "standard output" not in err


@pytest.mark.parametrize("name", BROKEN)
def test_messages_that_cannot_be_printed_stop_no_work(
    name, finished_round, tmp_path, monkeypatch, capsys
):
    """With a full or closed stderr the handoff is written, and errors keep their codes."""
    r = finished_round
    given = (
        "perturb",
        r.model,
        "--base",
        r.base,
        "-m",
        2,
        "--secret",
        tmp_path / "s",
        "--handoff",
        tmp_path / "h",
    )
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", BROKEN[name]())
        assert run(list(map(str, given))) == 0
        assert run(["verify", str(tmp_path / "absent")]) == 3
    assert (tmp_path / "h" / "mpu.yaml").exists()
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        (">&-", 3, ["Bad file descriptor"]),
        (">/dev/full", 3, ["No space left on device"]),
        (">/dev/full 2>&1", 3, []),
        (">&- 2>&- <&-", 3, []),
        ("2>&-", 0, []),
        ("| true; exit ${PIPESTATUS[0]}", 3, []),
        ("| head -c 1; exit ${PIPESTATUS[0]}", 3, []),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_in_a_shell(redirected, code, said, unbuffered, environment, finished_round):
    """Our exit code, not 120 of a Python that could not flush, and at most one line and a hint."""
    command = f"{sys.executable} -m mpu_cli inspect {finished_round.handoff} {redirected}"
    given = environment | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        ["bash", "-c", command], env=given, capture_output=True, text=True, check=False
    )
    lines = done.stderr.splitlines()
    if "head" in redirected and done.returncode == 0:  # it was all written before the reader left
        return
    assert done.returncode == code, done.stderr
    assert len(lines) == 2 * len(said)
    assert all(words in lines[0] for words in said)


def test_a_closed_descriptor_is_not_given_to_a_file():
    """With stdout closed, a library would print into the first file that is opened."""
    program = (
        "import os, sys; from mpu_cli.cli.streams import reserve_numbers; reserve_numbers();"
        "f = open(sys.argv[1], 'w'); sys.exit(f.fileno() if f.fileno() <= 2 else 0)"
    )
    for closed in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        done = subprocess.run(
            ["bash", "-c", f'{sys.executable} -c "{program}" /dev/null {closed}'], check=False
        )
        assert done.returncode == 0, closed


@pytest.mark.parametrize(
    "words",
    [
        ["inspect"],
        ["unlearn", "h", "--forget"],
        ["perturb", "m", "--client"],
        ["eval", "m", "--config"],
    ],
)
def test_an_argument_that_is_not_utf_8_is_named(words, capsys, tmp_path, monkeypatch):
    """Exit code 3, the bytes as numbers, and a hint that works; valid JSON with --json."""
    monkeypatch.chdir(tmp_path)
    odd = os.fsdecode(b"b\xff")
    assert run([*words, odd]) == 3
    assert (
        capsys.readouterr().err
        == "mpu: error: b\\xff: not UTF-8\nmpu: hint: rename it, or give a link to it that has"
        " another name\n"
    )
    assert run([*words, odd, "--json"]) == 3
    told = capsys.readouterr().out
    assert json.loads(told)["error"]["message"] == "b\\xff: not UTF-8"
    assert "\\ud" not in told


def test_a_working_directory_that_is_not_utf_8_or_gone(
    tmp_path, monkeypatch, capsys, finished_round
):
    """Records hold absolute paths, so mpu refuses both before any work. --help works."""
    odd = os.path.join(os.fsencode(tmp_path), b"b\xff")  # noqa: PTH118
    os.mkdir(odd)  # noqa: PTH102
    (tmp_path / "link").symlink_to(os.fsdecode(odd))
    given = ("--base", finished_round.base, "-m", 2, "--secret", "s")
    command = ["perturb", finished_round.model, *given, "--handoff", "h"]
    monkeypatch.chdir(odd)
    assert run(list(map(str, command))) == 3
    assert "\\xff: not UTF-8" in capsys.readouterr().err
    assert os.listdir(odd) == []  # noqa: PTH208
    monkeypatch.chdir(tmp_path)
    through = ["perturb", finished_round.model, *given[:-1], "link/s", "--handoff", "link/h"]
    assert run(list(map(str, through))) == 0
    assert run(["verify", "link/s"]) == 0
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run(["inspect", "x"]) == 3
    assert "the working directory no longer exists" in capsys.readouterr().err
    assert run(["--help"]) == 0


def test_a_locale_that_reads_paths_in_another_way(environment, finished_round, tmp_path):
    """Without UTF-8 mode, Python and the libraries read a path differently: mpu refuses it."""
    given = {**environment, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "mpu_cli", "inspect"]
    plain = subprocess.run(
        [*command, str(finished_round.model)], env=given, capture_output=True, check=False
    )
    assert plain.returncode == 0, plain.stderr
    odd = subprocess.run(
        [*command, str(tmp_path / "größe")], env=given, capture_output=True, check=False
    )
    assert odd.returncode == 3
    assert (
        b"this locale reads it as ascii, but it is UTF-8\nmpu: hint: set PYTHONUTF8=1" in odd.stderr
    )


def test_an_error_of_the_system_is_bad_input(finished_round, monkeypatch, capsys):
    """If it names a file: exit code 3 with that file."""

    def broken(*_, **__):
        raise PermissionError(13, "Permission denied", b"/some/b\xff")

    monkeypatch.setattr("mpu_cli.cli.commands.verify.verify_bundle", broken)
    assert run(["verify", str(finished_round.handoff)]) == 3
    assert capsys.readouterr().err == "mpu: error: /some/b\\xff: Permission denied\n"


@pytest.mark.parametrize("used", [False, True])
def test_the_cache_of_torchs_compiler_is_not_left_behind(used, tmp_path, monkeypatch):
    """Importing torch's compiler makes an empty directory; one in use, or given, is kept."""
    cache = tmp_path / "torchinductor_user"

    def command(_):
        cache.mkdir()
        if used:
            (cache / "kernel").touch()
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
        return 0

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(app, "_run", command)
    assert app.run([]) == 0
    assert cache.exists() == used
    if used:
        (cache / "kernel").unlink()
        cache.rmdir()
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
        assert app.run([]) == 0
        assert cache.exists()
