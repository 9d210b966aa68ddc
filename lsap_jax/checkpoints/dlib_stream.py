"""dlib's elementary encodings (dlib/serialize.h, dlib/float_details.h, dlib/cuda/tensor.h), read without dlib.

* integer: one byte, the number of bytes that follow (sign in its top bit), then those, little-endian;
* float: integers m and e, meaning m 2^e;
* bool: the character "0" or "1";  string: an integer length, then bytes;
* tensor: integers 2, samples, k, rows, columns, then float32 little-endian;
* matrix: integers -rows, -columns, then floats;  vector: an integer length, then its elements.
"""

import math
import re

import numpy as np

# Nearly every float32 takes six bytes: a mantissa of three and an exponent of one (dlib drops low bytes of zero).
_COMMON_FLOATS = re.compile(rb"(?:[\x03\x83].{3}[\x01\x81].)*", re.DOTALL)


class FormatError(Exception):
    """The bytes are not what they should be; the readers turn it into a CheckpointError that names the file."""


class Stream:
    """A position in the bytes of a file; every method reads one thing there and raises FormatError if it cannot."""

    def __init__(self, data: bytes):
        self.data, self.at = memoryview(data), 0

    def bytes(self, n: int) -> memoryview:
        """The next n bytes."""
        if not 0 <= n <= len(self.data) - self.at:
            raise FormatError(f"{n} bytes wanted at {self.at} of {len(self.data)}")
        self.at += n
        return self.data[self.at - n : self.at]

    def integer(self) -> int:
        """An integer of up to 8 bytes."""
        (head,) = self.bytes(1)
        size = head & 0x0F
        if not 1 <= size <= 8:
            raise FormatError(f"an integer of {size} bytes at {self.at - 1}")
        value = int.from_bytes(self.bytes(size), "little")
        return -value if head & 0x80 else value

    def length(self, least_bytes: int) -> int:
        """Length of a vector whose elements take at least so many bytes each, so that it must fit into the file."""
        at, n = self.at, self.integer()
        if not 0 <= n * least_bytes <= len(self.data) - self.at:
            raise FormatError(f"a vector of {n} elements at {at}")
        return n

    def float(self) -> float:
        """A finite float."""
        mantissa, exponent = self.integer(), self.integer()
        if abs(exponent) > 1000:  # dlib's codes for infinities and NaN, which no weight file should hold
            raise FormatError(f"a float with exponent {exponent}")
        return mantissa * 2.0**exponent

    def pairs(self, n: int) -> np.ndarray:
        """Twice n integers -> (n, 2) int64, such as n floats; fast where there are many."""
        if not 0 <= 4 * n <= len(self.data) - self.at:  # the shortest pair takes four bytes
            raise FormatError(f"{n} pairs of integers wanted at {self.at} of {len(self.data)}")
        values, filled, runs = np.empty((n, 2), np.int64), 0, []
        while filled < n:
            run = _COMMON_FLOATS.match(self.data, self.at, self.at + 6 * (n - filled))
            count = (run.end() - self.at) // 6 if run else 0
            if count:
                runs.append((filled, self.at, count))
                self.at += 6 * count
                filled += count
            else:
                values[filled] = self.integer(), self.integer()
                filled += 1
        if runs:
            to, start, count = np.array(runs).T
            within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            start = np.repeat(start, count) + 6 * within
            raw = np.frombuffer(self.data, np.uint8)[start[:, None] + np.arange(6)].astype(np.int64)
            mantissa = raw[:, 1] | raw[:, 2] << 8 | raw[:, 3] << 16
            signed = [
                np.where(raw[:, 0] & 0x80, -mantissa, mantissa),
                np.where(raw[:, 4] & 0x80, -raw[:, 5], raw[:, 5]),
            ]
            values[np.repeat(to, count) + within] = np.stack(signed, axis=1)
        return values

    def matrix(self) -> np.ndarray:
        """A matrix of floats -> (rows, columns) float32."""
        at = self.at
        rows, columns = -self.integer(), -self.integer()
        if min(rows, columns) < 0:
            raise FormatError(f"a matrix of shape {(rows, columns)} at {at}")
        return as_floats(self.pairs(rows * columns)).reshape(rows, columns)

    def bool(self) -> bool:
        """A bool."""
        flag = bytes(self.bytes(1))
        if flag not in (b"0", b"1"):
            raise FormatError(f"a bool {flag!r} at {self.at - 1}")
        return flag == b"1"

    def string(self) -> str:
        """A string of at most 64 letters."""
        at = self.at
        length = self.integer()
        if not 0 <= length <= 64:
            raise FormatError(f"the name of a layer with {length} letters at {at}")
        return bytes(self.bytes(length)).decode("latin-1")

    def shape(self, version: int) -> tuple[int, int, int, int]:
        """The shape of a tensor that begins with this version number."""
        at = self.at
        if self.integer() != version:
            raise FormatError(f"no tensor at {at}")
        return self.integer(), self.integer(), self.integer(), self.integer()

    def tensor(self) -> np.ndarray:
        """A tensor -> (samples, k, rows, columns) float32."""
        shape = self.shape(version=2)
        if min(shape) < 0:
            raise FormatError(f"a tensor of shape {shape}")
        return np.frombuffer(self.bytes(4 * math.prod(shape)), "<f4").reshape(shape)


def as_floats(pairs: np.ndarray) -> np.ndarray:
    """Pairs of integers m and e (..., 2) as the floats m 2^e that they mean: (...) float32.

    Raises:
      FormatError: if one is beyond the range of float32.
    """
    if np.abs(pairs[..., 1]).max(initial=0) > 1000:
        raise FormatError("a float that is infinite or no number")
    values = np.ldexp(pairs[..., 0].astype(np.float64), pairs[..., 1].astype(np.int32))
    if np.abs(values).max(initial=0) > np.finfo(np.float32).max:
        raise FormatError("a float beyond the range of float32")
    return values.astype(np.float32)
