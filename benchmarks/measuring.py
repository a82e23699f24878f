"""One command in a child process, and what it costs: shared by the benchmarks, not one itself.

A child imports everything that the command needs, says that it is ready, and waits; so nothing that
is measured includes start-up. Wall and CPU seconds (user + system, its own children included) are
the child's own; memory is RssAnon of /proc/PID/status above what it was after the imports, sampled
by the parent: pages of mapped or cached files, which the kernel can drop, do not count. Memory of
processes that the child itself starts is not seen.
"""

from __future__ import annotations

import json
import os
import platform
import selectors
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INTERVAL = 0.005
"""Seconds between two samples of the memory."""

_CHILD = """
import json, os, resource, sys, time
arguments, extra = sys.argv[1:], {{}}
{setup}
report = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever the command prints must not mix with the report
def used():
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime for one in found), sum(one.ru_stime for one in found)
print("ready", file=report, flush=True)
sys.stdin.readline()
user, system = used()
started = time.perf_counter()
{action}
wall = time.perf_counter() - started
after = used()
print(json.dumps([wall, after[0] - user, after[1] - system, extra]), file=report, flush=True)
sys.stdin.readline()
"""

MPU = """
import torch
import mpu_cli.cli.commands.aggregate, mpu_cli.cli.commands.diff
import mpu_cli.cli.commands.perturb, mpu_cli.cli.commands.verify
import mpu_cli.bundle.tensors, mpu_cli.client.diff
import mpu_cli.modeling.load, mpu_cli.modeling.tokenizer, mpu_cli.server.can_be_loaded
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM
import mpu_cli.server.aggregation.aggregate, mpu_cli.server.publishing.perturb
from mpu_cli.checkpoint import locate
from mpu_cli.cli.app import run
torch.set_num_threads(1)
"""
"""All that a command of `mpu` imports, before it is measured."""
TRANSFORMERS = """
from transformers import AutoConfig, AutoModel
sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, vocab_size=8)
small = sizes | dict(num_attention_heads=2, num_key_value_heads=2)
for dtype in (torch.float32, torch.float64):
    with torch.inference_mode():
        tiny = AutoModel.from_config(AutoConfig.for_model("llama", **small), dtype=dtype)
        tiny(input_ids=torch.zeros(1, 4, dtype=torch.long))
"""
"""What commands that open a model, and `--check`, import on top; some of it at a first use only."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took. `samples` is 0 where memory was not watched."""

    wall: float
    user: float
    system: float
    peak_mib: float
    """Anonymous memory above the imports."""
    imports_mib: float
    samples: int
    extra: dict[str, Any]
    """What the command's code left in its variable `extra`."""

    @property
    def cpu(self) -> float:
        """CPU-seconds, user and system."""
        return self.user + self.system

    def row(self) -> dict[str, float]:
        """For JSON."""
        return {
            "wall_seconds": self.wall,
            "cpu_seconds": self.cpu,
            "user_seconds": self.user,
            "system_seconds": self.system,
            "peak_mib": self.peak_mib,
            "imports_mib": self.imports_mib,
            "samples": self.samples,
        }


def measured(
    setup: str, action: str, *arguments: object, interval: float | None = INTERVAL
) -> Cost:
    """Run `action` after `setup` in a child whose `arguments` are these, as strings.

    Raises:
        RuntimeError: the child failed; its last words are in the message.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH")))
        ),
    }
    program = _CHILD.format(setup=setup, action=action)
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            bufsize=1,
            env=environment,
        ) as child,
    ):
        assert child.stdin is not None and child.stdout is not None
        try:
            if child.stdout.readline().strip() != "ready":
                raise RuntimeError(f"the child died while importing: {_last_words(errors)}")
            before = peak = anonymous(child.pid)
            child.stdin.write("\n")
            samples = 0
            with selectors.DefaultSelector() as selector:
                selector.register(child.stdout, selectors.EVENT_READ)
                while not selector.select(interval):
                    peak = max(peak, anonymous(child.pid))
                    samples += 1
            line = child.stdout.readline()
            if not line:
                raise RuntimeError(f"the command failed: {_last_words(errors)}")
            child.stdin.write("\n")
        except BaseException:
            child.kill()
            raise
    wall, user, system, extra = json.loads(line)
    return Cost(wall, user, system, (peak - before) / 2**20, before / 2**20, samples, extra)


def mpu(*arguments: object, setup: str = MPU, interval: float | None = INTERVAL) -> Cost:
    """Run one `mpu` command line, start-up excluded.

    Raises:
        RuntimeError: it did not end with exit code 0.
    """
    action = "code = run(arguments)\nif code: sys.exit(f'exit code {code}')"
    return measured(setup, action, *arguments, interval=interval)


def anonymous(pid: int) -> int:
    """RssAnon of a process, bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(memory / 2**30, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def describe(found: dict[str, Any]) -> str:
    """The machine in one line."""
    return (
        f"{found['cores']} cores, {found['cpu']} ({found['vectors']}), {found['memory_gib']} GiB,"
        f" torch {found['torch']}, Python {found['python']}, load {found['load']} at the start"
    )


def _last_words(errors: Any) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace").strip()[-2000:] or "it said nothing"
