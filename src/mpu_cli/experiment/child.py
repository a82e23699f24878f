"""Run one step: `python -m mpu_cli.experiment.child WORK KEY … -- WORDS`.

The command runs in the step's own directory: its result goes to stdout.json, its messages to
stderr.log. A step that is done already is not run again. `mpu run` forks these processes from one
that has imported the libraries; Slurm, make and Snakemake start them as commands.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import runpy
import shlex
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mpu_cli.errors import BadInputError, BusyError, MpuError
from mpu_cli.experiment.step import Own, Result, Source, Step, Word, altered
from mpu_cli.experiment.store import ANSWER, LOG, StepAttempt, Store

_PR_SET_PDEATHSIG = 1
_CRASHED = 70


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A step with its paths, as a process needs it."""

    work: str
    """The work directory, absolute."""
    key: str
    name: str
    kind: str
    program: str
    words: tuple[str, ...]
    """Paths of earlier steps are relative to the step's directory."""
    outputs: tuple[str, ...]
    copied: Mapping[str, str] = field(default_factory=dict)
    draw: str | None = None
    resume: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """The user's files, each as `source_state` wrote it when the plan was read."""

    @classmethod
    def of(cls, step: Step, keys: Mapping[str, str], work: Path) -> Task:
        """Resolve a step's words; `keys` has the keys of all steps by name."""

        def path(result: Result) -> str:
            return f"../../steps/{keys[result.step]}/{result.path}"

        def text(word: Word) -> str:
            match word:
                case Result():
                    return path(word)
                case Own(name):
                    return name
                case Source(name, _, prefix):
                    return prefix + name
                case _:
                    return word

        return cls(
            work=str(work),
            key=keys[step.name],
            name=step.name,
            kind=step.kind,
            program=step.program,
            words=tuple(map(text, step.words)),
            outputs=step.outputs,
            copied={target: path(source) for target, source in step.copied.items()},
            draw=step.draw,
            resume=step.resume,
            sources=tuple(
                state for word in step.words if isinstance(word, Source) for state in word.files
            ),
        )

    def command(self) -> list[str]:
        """The words after `python -m` that run the task in a process of its own."""
        line = ["mpu_cli.experiment.child", self.work, self.key]
        line += ["--name", self.name, "--kind", self.kind, "--program", self.program]
        for output in self.outputs:
            line += ["--output", output]
        for target, source in self.copied.items():
            line += ["--copied", f"{target}={source}"]
        if self.draw is not None:
            line += ["--draw", self.draw]
        if self.resume:
            line += [f"--resume={shlex.join(self.resume)}"]
        for state in self.sources:
            line += ["--source", state]
        return [*line, "--", *self.words]


def perform(task: Task) -> int:
    """Run a task in this process, unless it is done; return the exit code.

    The process ends after it: its directory and its streams are the step's.
    """
    store = Store(Path(task.work))
    try:
        store.open()
        with store.attempt(task.key, keep=bool(task.resume)) as attempt:
            return 0 if attempt is None else _perform(task, attempt)
    except BusyError as error:
        # Its streams are not the step's yet, and the step's log is another process's.
        with suppress(OSError):
            store.refusal(task.key).write_text(f"{error.message}; {error.hint}\n", encoding="utf-8")
        sys.stderr.write(f"mpu: error: {error.message}\nmpu: hint: {error.hint}\n")
        return error.exit_code
    except MpuError as error:
        hint = f"mpu: hint: {error.hint}\n" if error.hint else ""
        sys.stderr.write(f"mpu: error: {error.message}\n{hint}")  # it may be the log
        return error.exit_code
    except OSError as error:
        where = error.filename or store.running(task.key)
        with suppress(OSError):  # the log is on the same disk
            sys.stderr.write(f"mpu: error: {where}: {str(error.strerror).lower()}\n")
            sys.stderr.flush()
        return BadInputError.exit_code


def perform_forked(task: Task) -> None:
    """Run a task in a process that the fork server forked for it; it dies with `mpu run`."""
    os.setsid()  # Ctrl-C reaches `mpu run` only, which then ends its steps
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # if the fork server ends
    threading.Thread(target=_die_with_parent, daemon=True).start()
    code = perform(task)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # nothing of the parent's is cleaned up here


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _perform(task: Task, attempt: StepAttempt) -> int:
    os.chdir(attempt.path)
    _redirect(Path(LOG), Path(ANSWER))
    _require_inputs(task)
    resumes = _prepare(task)
    words = [*task.words, *(task.resume if resumes else ())]
    began = time.monotonic()
    _leave_the_user_alone(attempt.path)
    with _entropy(task.draw):
        code = _run(task.program, words)
    if code == 0:
        _require_inputs(task)  # what the command has read may be newer than the step's key
        attempt.finish(task.name, task.kind, round(time.monotonic() - began, 3), task.outputs)
    return code


def _require_inputs(task: Task) -> None:
    """Raise BadInputError if a file of the user was altered, or an earlier output was removed."""
    path = altered(task.sources)
    if path is not None:
        raise BadInputError(
            f"{path}: was altered since the plan was read",
            "run mpu run again (after --emit: emit the rules again)",
        )
    earlier = [*task.copied.values(), *(w for w in task.words if w.startswith("../../steps/"))]
    for where in earlier:
        if not Path(where).exists():
            raise BadInputError(
                f"{Path(task.work) / where.removeprefix('../../')}: was removed to free the disk",
                "mpu run makes it again, with --keep all it stays",
            )


def _prepare(task: Task) -> bool:
    """Copy what the command changes; return whether an interrupted attempt can be resumed."""
    left = [entry for entry in Path().iterdir() if entry.name not in {ANSWER, LOG}]
    resumes = bool(left) and not any(Path(output).exists() for output in task.outputs)
    if not resumes:
        for entry in left:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for target, source in task.copied.items():
        shutil.rmtree(target, ignore_errors=True)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target)
    for output in task.outputs:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
    return resumes


def _leave_the_user_alone(directory: Path) -> None:
    """Neither pinned keys, notes on lineages nor a secret of the user decide what a step does."""
    os.environ["MPU_TRUST_FILE"] = str(directory / "no-pins")
    os.environ["XDG_STATE_HOME"] = os.devnull
    os.environ.pop("MPU_SECRET", None)


def _redirect(log: Path, answer: Path) -> None:
    _replace(0, Path(os.devnull), os.O_RDONLY)
    _replace(1, answer, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    _replace(2, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


def _replace(number: int, path: Path, flags: int) -> None:
    handle = os.open(path, flags, 0o644)
    os.dup2(handle, number)
    os.close(handle)


@contextmanager
def _entropy(draw: str | None) -> Iterator[None]:
    with ExitStack() as stack:
        if draw is not None:
            from mpu_cli.server.secrets.prepared import prepared_entropy

            stack.enter_context(prepared_entropy(draw))
        yield


def _run(program: str, words: Sequence[str]) -> int:
    """Run a module as the main program; return its exit code."""
    sys.argv = [program, *words]
    try:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
        if code is not None and not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
            return 1
        return code or 0
    except Exception:
        traceback.print_exc()
        return _CRASHED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def main(arguments: Sequence[str]) -> int:
    """Read a task from a command line and run it; errors go to stderr or the step's log."""
    parser = argparse.ArgumentParser(prog="python -m mpu_cli.experiment.child")
    parser.add_argument("work")
    parser.add_argument("key")
    parser.add_argument("--name", required=True)
    parser.add_argument("--kind", required=True)
    parser.add_argument("--program", default="mpu_cli")
    parser.add_argument("--output", action="append", default=[])
    parser.add_argument("--copied", action="append", default=[], metavar="PATH=SOURCE")
    parser.add_argument("--draw")
    parser.add_argument("--resume", default="")
    parser.add_argument("--source", action="append", default=[], metavar="SIZE:TIME:PATH")
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    given = parser.parse_args(arguments[:end])
    task = Task(
        work=str(Path(given.work).absolute()),
        key=given.key,
        name=given.name,
        kind=given.kind,
        program=given.program,
        words=tuple(arguments[end + 1 :]),
        outputs=tuple(given.output),
        copied=dict(item.split("=", 1) for item in given.copied),
        draw=given.draw,
        resume=tuple(shlex.split(given.resume)),
        sources=tuple(given.source),
    )
    return perform(task)


if __name__ == "__main__":
    # The bits of a step depend on it; a job of Slurm says how many it has.
    os.environ["OMP_NUM_THREADS"] = os.environ.get("MPU_STEP_THREADS", "1")
    raise SystemExit(main(sys.argv[1:]))
