"""A seeded mutator of bytes: the same number always gives the same input.

Hypothesis shrinks well but makes a few hundred inputs per second; this makes a hundred thousand.
The kinds of change are those of AFL: flip, set, delete, repeat, insert a token, splice.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

INTERESTING = (
    *(b"", b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\x1b[2J", b"\\ud800"),
    *(b"0", b"-1", b"1e309", b"-0.0", b"NaN", b"Infinity", b"9" * 400, b"18446744073709551616"),
    *(b"null", b"true", b"[]", b"{}", b'""', b"[" * 500, b'{"a":' * 200, b"{" * 90, b"}" * 3),
    *(b"&a ", b"*a", b"!!int ", b"!!python/object:os.system ", b"<<: ", b"? ", b"1:30", b"---\n"),
    *(b"../", b"/etc/passwd", b"copy-1", b"__metadata__", b"data_offsets", b"auto_map", b"{{ x }}"),
    *("é".encode(), "\u2028".encode(), "\u202e".encode(), b"x" * 5000, b"\n" * 50, b"\t", b"  "),
)
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")


def mutated(seeds: Sequence[bytes], number: int) -> bytes:
    """Input `number` of a target with these seeds: one to eight changes of one seed."""
    rng = random.Random(number)
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        _change(data, rng, seeds)
    return bytes(data)


def _change(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 2, 4, 8, 32, 200)))
    kind = rng.randrange(9)
    if kind == 0 and data:
        data[at % len(data)] ^= 1 << rng.randrange(8)
    elif kind == 1 and data:
        data[at % len(data)] = rng.randrange(256)
    elif kind == 2:
        del data[at:end]
    elif kind == 3:
        data[at:at] = data[at:end] * rng.choice((1, 2, 50))
    elif kind == 4:
        data[at:at] = rng.choice(INTERESTING)
    elif kind == 5:
        data[at:end] = rng.choice(INTERESTING)
    elif kind == 6:
        numbers = list(_NUMBER.finditer(data))
        if numbers:
            found = rng.choice(numbers)
            data[found.start() : found.end()] = rng.choice(INTERESTING[8:22])
    elif kind == 7:
        del data[at:]
    else:
        other = rng.choice(seeds)
        cut = rng.randrange(len(other) + 1)
        data[at:end] = other[cut : cut + rng.choice((4, 40, 400))]
