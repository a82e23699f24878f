"""The work directory of experiments: what is finished, what is being made, what was removed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpu_cli.errors import BadInputError, BusyError, CheckFailedError
from mpu_cli.experiment import store as store_module
from mpu_cli.experiment.store import Store

KEY = "0" * 32


@pytest.fixture
def store(tmp_path) -> Store:
    """An empty work directory."""
    made = Store(tmp_path / "work")
    made.open()
    return made


def make(store: Store, content: str = "x", key: str = KEY) -> None:
    """Finish a step with one output."""
    with store.attempt(key, keep=False) as attempt:
        assert attempt is not None
        (attempt.path / "out").mkdir()
        (attempt.path / "out" / "file").write_text(content)
        (attempt.path / "stdout.json").write_text('{"n": 1}')
        attempt.finish("a step", "eval", 2.5, ["out"])


def test_a_finished_step_is_found_and_not_made_again(store):
    """It lies whole in steps/KEY; nothing stays in running."""
    assert store.finished(KEY) is None
    make(store)
    done = store.finished(KEY)
    assert done is not None
    assert (done.name, done.kind, done.seconds, done.nbytes) == ("a step", "eval", 2.5, 1)
    assert list(done.files) == ["out/file"]
    assert store.answer(KEY) == {"n": 1}
    with store.attempt(KEY, keep=False) as attempt:
        assert attempt is None


def test_an_unfinished_attempt_is_emptied_unless_it_can_be_resumed(store):
    """What a killed process left is not part of the next attempt's result."""
    with store.attempt(KEY, keep=False) as attempt:
        (attempt.path / "half").write_text("x")
    with store.attempt(KEY, keep=True) as attempt:
        assert (attempt.path / "half").exists()
    with store.attempt(KEY, keep=False) as attempt:
        assert not (attempt.path / "half").exists()


def test_a_step_that_was_finished_but_not_renamed_is_not_lost(store, monkeypatch):
    """A kill -9 between step.json and the rename: the next process renames it."""
    monkeypatch.setattr(Store, "_place", lambda *_: None)
    make(store)
    assert store.finished(KEY) is None
    monkeypatch.undo()
    with store.attempt(KEY, keep=False) as attempt:
        assert attempt is None
    assert store.finished(KEY) is not None


def test_a_removed_output_is_made_again_and_compared(store):
    """The answer stays; other bits than before are an error that names the step."""
    make(store)
    assert store.reclaim(KEY) == 1
    assert store.reclaim(KEY) == 0
    assert not (store.directory(KEY) / "out").exists()
    assert store.answer(KEY) == {"n": 1}
    assert store.finished(KEY).is_reclaimed
    with pytest.raises(CheckFailedError, match="a step: out/file has other bits"):
        make(store, "y")
    make(store, "x")
    assert not store.finished(KEY).is_reclaimed
    assert not list((store.root / "running").iterdir())


def test_the_date_in_a_secrets_records_is_no_other_result(store):
    """A handoff that another plan needs again is made at another time."""

    def perturb(date, copy):
        with store.attempt(KEY, keep=False) as attempt:
            for path, text in (("server/secret/handoffs/id.yaml", date), ("handoff/copy", copy)):
                (attempt.path / path).parent.mkdir(parents=True)
                (attempt.path / path).write_text(text)
            attempt.finish("a step", "perturb", 1.0, ("handoff", "server/secret"))

    perturb("2026-11-29", "x")
    store.reclaim(KEY)
    perturb("2026-11-30", "x")
    store.reclaim(KEY)
    with pytest.raises(CheckFailedError, match="a step: handoff/copy has other bits"):
        perturb("2026-11-30", "y")


def test_a_missing_output_is_named(store):
    """A command that ends well without its output is no finished step."""
    with (
        store.attempt(KEY, keep=False) as attempt,
        pytest.raises(CheckFailedError, match="without writing out"),
    ):
        attempt.finish("a step", "eval", 1.0, ["out"])
    assert store.finished(KEY) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "x"}'])
def test_a_damaged_step_is_named(store, content):
    """One line with the file and the remedy."""
    make(store)
    (store.directory(KEY) / "step.json").write_text(content)
    with pytest.raises(BadInputError, match=r"step\.json: missing or damaged") as caught:
        store.finished(KEY)
    assert "remove" in caught.value.hint
    assert list(store.all_finished()) == []


def test_two_processes_do_not_make_one_step(store, monkeypatch):
    """The second one waits and then finds it done; one that never ends is an error."""
    code = (
        "import sys, time; from pathlib import Path; from mpu_cli.experiment.store import Store\n"
        f"with Store(Path(sys.argv[1])).attempt({KEY!r}, keep=False) as attempt:\n"
        "    print('made', flush=True); time.sleep(float(sys.argv[2]))\n"
        "    (attempt.path / 'stdout.json').write_text('{}')\n"
        "    attempt.finish('a', 'eval', 1.0, [])\n"
    )

    def other(seconds: float) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(store.root), str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "made\n"
        return process

    process = other(60)
    monkeypatch.setattr(store_module, "_OTHER_PROCESS_ENDS", 0.2)
    with pytest.raises(BusyError), store.attempt(KEY, keep=False):
        pass
    process.kill()
    process.wait()
    monkeypatch.undo()
    process = other(0.5)
    began = time.monotonic()
    with store.attempt(KEY, keep=False) as attempt:
        assert attempt is None
    assert time.monotonic() - began > 0.2
    assert process.wait() == 0


def test_a_work_directory_that_cannot_be_made_is_named(tmp_path):
    """A file stands in its way."""
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="file/work"):
        Store(tmp_path / "file" / "work").open()


def test_step_json_is_plain(store):
    """Other programs may read it."""
    make(store)
    content = json.loads(Path(store.directory(KEY), "step.json").read_text())
    assert content["files"].keys() == {"out/file"}


@pytest.mark.parametrize("name", ["steps", "running", "lock", "done"])
def test_a_directory_with_a_part_of_its_own_is_opened(tmp_path, name):
    """A killed run, a run that waits and Snakemake each leave something before any step."""
    (tmp_path / name).mkdir()
    Store(tmp_path).open()
    assert (tmp_path / "steps").is_dir() and (tmp_path / "running").is_dir()


def test_a_directory_of_other_files_is_refused(tmp_path):
    """Also beside a part of its own."""
    (tmp_path / "done").mkdir()
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadInputError, match="no steps of an earlier run"):
        Store(tmp_path).open()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["done", "thesis.txt"]
