"""The field `mask` of an update's manifest: closed, and only with masked payloads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flips import BITS_OF_A_BYTE, flipped_bits

from mpu_cli.bundle import canonical
from mpu_cli.bundle.manifest import FileEntry, UpdateCopy, UpdateManifest, decode, encode
from mpu_cli.bundle.mask import Mask, group_digest, largest_share, readable
from mpu_cli.errors import BadBundleError

HASH = "ab" * 32
GROUP = ("11" * 32, "22" * 32, "33" * 32)
MASKED = UpdateManifest(
    "cd" * 16,
    HASH,
    (UpdateCopy("copy-1", HASH, "masked", {"masked.safetensors": FileEntry(HASH, 30)}),),
    Mask(GROUP, 2),
)
PLAIN = replace(
    MASKED,
    copies=(UpdateCopy("copy-1", HASH, "delta", {"delta.safetensors": FileEntry(HASH, 30)}),),
    mask=None,
)


def _mask(**changes: object) -> dict[str, object]:
    return {**MASKED.content(), "mask": {**MASKED.content()["mask"], **changes}}


CONTENTS = {
    "one member": (_mask(group=list(GROUP[:1])), "'group' is not a sorted list of 2"),
    "too many": (
        _mask(group=[f"{number:064x}" for number in range(257)]),
        "'group' is not a sorted list of 2 to 256 keys",
    ),
    "a key twice": (_mask(group=[*GROUP, GROUP[2]]), "'group' is not a sorted list"),
    "out of order": (_mask(group=list(GROUP[::-1])), "'group' is not a sorted list"),
    "a name for a key": (_mask(group=["lab", *GROUP]), "'group'"),
    "nobody": (_mask(member=0), "'member' is not the number of a member"),
    "a fourth of three": (_mask(member=4), "'member' is not the number of a member"),
    "a name": (_mask(name="lab"), "'name' is not a known field"),
    "no map": ({**MASKED.content(), "mask": 3}, "mask: expected a map"),
    "a plain payload": (
        {**MASKED.content(), "copies": PLAIN.content()["copies"]},
        "'mask' and the copies' payloads disagree",
    ),
    "no mask": (
        {**PLAIN.content(), "copies": MASKED.content()["copies"]},
        "'mask' and the copies' payloads disagree",
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_unexpected_content_is_refused(name):
    """Even if the manifest's own digest is valid."""
    content, expected = CONTENTS[name]
    data = canonical.dump({**content, "digest": canonical.digest(content)})
    with pytest.raises(BadBundleError) as caught:
        decode(data, "mpu.yaml")
    assert expected in caught.value.message


@BITS_OF_A_BYTE
def test_every_byte_is_covered(bits_of_a_byte):
    """Flipping one bit is refused, in whatever byte; the manifest itself is read as written."""
    data = encode(MASKED)
    assert decode(data, "mpu.yaml") == MASKED
    accepted = []
    for bit in flipped_bits(len(data), bits_of_a_byte):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decode(bytes(flipped), "mpu.yaml")
        except BadBundleError:
            continue
        accepted.append(bit)
    assert accepted == []


def test_digests_and_ranges_are_fixed():
    """Members of any version of mpu must agree on them."""
    assert (
        group_digest(GROUP[::-1])
        == MASKED.mask.digest
        == ("908d953236323557944190d71c78c9e5dfb353a729dc96d08a4740e29fa13e2f")
    )
    assert readable("0123456789abcdef" * 4) == "0123 4567 89ab cdef 0123 4567 89ab cdef"
    assert [largest_share(members) for members in (2, 3, 256)] == [2**30 - 1, 715827882, 2**23 - 1]
