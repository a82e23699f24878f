"""Try a tokenizer.json in a child process with limits before this process uses it.

The file comes from the other party. Its rules can double a text 30 times, and the tokenizers
library aborts in ways that are no exception in Python (a Rust panic).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from mpu_cli.checkpoint.json_text import count_values
from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.checkpoint.side_settings import MOST_TOKENS
from mpu_cli.errors import BadModelError

SECONDS, GIGABYTES = 10, 4
"""Limits of CPU time and address space; a tokenizer of 256,000 tokens needs 3 s and 1 GB."""
_FOR_TEXTS = 2
"""CPU seconds of them for the texts, which take milliseconds."""
_WAIT = 6 * SECONDS  # on the clock, where other processes take most of the CPU
_MAX_BYTES = 128 << 20
_MOST_VALUES = 4_000_000
"""transformers parses the file in this process, too; 256,000 tokens with their merges are half."""
_WIDE = b"na\xc3\xafve \xe2\x80\x94 \xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e \xf0\x9f\x99\x82".decode()
"""Letters of one to four bytes."""
TEXTS = ("", "a", "Hello, world! 42\n", " \t\r\n", _WIDE, "aaaa bbbb " * 20)
"""Each must become tokens, at most `_MOST` for all of them."""
_MOST = 100_000
_CHILD = f"""
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({GIGABYTES} << 30,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS},) * 2)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from tokenizers import Tokenizer
count = 0
def attempt(call, *arguments):
    try:
        return call(*arguments)
    except MemoryError:
        raise
    except Exception:  # the caller meets it again, and has a message for it
        return None
tokenizer = attempt(Tokenizer.from_file, sys.argv[1]) or sys.exit(0)
used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
resource.setrlimit(resource.RLIMIT_CPU, (min(int(used) + {_FOR_TEXTS}, {SECONDS}), {SECONDS}))
for text in json.loads(sys.argv[2]):
    if encoding := attempt(tokenizer.encode, text):
        count += len(encoding.ids)
        attempt(tokenizer.decode, encoding.ids[:{_MOST}])
sys.exit(0 if count <= {_MOST} else "makes " + str(count) + " tokens of a few words")
"""
_tried: set[str] = set()
"""SHA-256 of the files that passed in this process."""


def try_tokenizer(file: Path, name: object) -> None:
    """Load a tokenizer.json in a child process and encode a few texts with it.

    Args:
        file: the file; nothing happens if there is none.
        name: what a message calls it.

    Raises:
        BadModelError: the library aborts on it, or it needs more than `SECONDS` or `GIGABYTES`.
    """
    if not file.exists():
        return
    data = read_file(file, _MAX_BYTES, BadModelError)
    digest = hashlib.sha256(data).hexdigest()
    if digest in _tried:
        return
    if count_values(data) > _MOST_VALUES:
        raise BadModelError(f"{name}: tokenizer.json has more than {_MOST_VALUES:,} values")
    if data.count(b'"single_word"') > MOST_TOKENS:
        raise BadModelError(f"{name}: tokenizer.json adds more than {MOST_TOKENS:,} tokens")
    del data
    hint = "use the tokenizer that the model was published with"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CHILD, str(file), json.dumps(TEXTS)],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_WAIT,
            check=False,
            env={"TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"},
        )
    except subprocess.TimeoutExpired as error:
        raise BadModelError(f"{name}: takes longer than {_WAIT} s to try", hint) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and line[:5] != "note:"]
        reason = lines[-1][:200] if lines else f"it needs more than {SECONDS} s or {GIGABYTES} GB"
        raise BadModelError(f"{name}: no usable tokenizer: {reason}", hint)
    _tried.add(digest)
