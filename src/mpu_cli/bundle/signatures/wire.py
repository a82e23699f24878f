"""The binary encoding of SSH's keys and signatures (RFC 4251, section 5)."""

from __future__ import annotations


class WireReader:
    """Reads one value after the other; every problem is a ValueError with the reason."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise ValueError("it is truncated")
        part, self._at = self._data[self._at : end], end
        return part

    def uint32(self) -> int:
        """An unsigned number of four bytes."""
        return int.from_bytes(self.take(4))

    def string(self) -> bytes:
        """Bytes with their length before them."""
        return self.take(self.uint32())

    def text(self) -> str:
        """A string that must be printable ASCII."""
        data = self.string()
        if not data.isascii() or not data.decode("ascii").isprintable():
            raise ValueError("a name in it is not printable ASCII")
        return data.decode("ascii")

    def natural(self) -> int:
        """An `mpint` that is not negative and has no needless bytes."""
        data = self.string()
        number = int.from_bytes(data)
        if (data and data[0] >= 0x80) or data != _mpint(number):
            raise ValueError("a number in it is negative or not in its shortest form")
        return number

    def done(self) -> None:
        """Refuse bytes that are left."""
        if self._at != len(self._data):
            raise ValueError("something follows its end")


def string(data: bytes) -> bytes:
    """Bytes with their length before them."""
    return len(data).to_bytes(4) + data


def natural(number: int) -> bytes:
    """A number ≥ 0 as `mpint`."""
    return string(_mpint(number))


def _mpint(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1) if number else b""
