"""Decides which bits of an allocated word hold the stored value (PS3.5, 8.1.1).

The header decides, unless the pixels contradict it.
"""

from typing import NamedTuple

import numpy as np

from cxrpipe.errors import StudyError
from cxrpipe.images.dicom.header import Header
from cxrpipe.images.lookup import extremes


class Bits(NamedTuple):
    """Where the stored value lies in its word."""

    allocated: int  # (0028,0100): 8 or 16
    stored: int  # (0028,0101): 1..allocated
    high: int  # (0028,0102): stored - 1..allocated - 1
    doubtful: bool = False
    """Whether the numbers of the header contradict each other or the pixels."""

    @classmethod
    def of(cls, header: Header, pixel_bytes: int, name: str) -> "Bits":
        """Read the bits from the header alone. A missing or impossible number follows from the others."""
        pixels = (header.rows_px or 0) * (header.columns_px or 0)
        allocated = header.bits_allocated or (8 if pixel_bytes < 2 * pixels else 16)
        if allocated not in (8, 16):
            raise StudyError(
                "corrupt", f"{name}: {allocated} bits allocated (0028,0100); expected 8 or 16; export the file again"
            )
        stored, high = header.bits_stored, header.high_bit
        stored_is_possible = stored is not None and 1 <= stored <= allocated
        if not stored_is_possible:
            stored = high + 1 if high is not None and 0 <= high < allocated else allocated
        assert stored is not None
        high_is_possible = high is not None and stored - 1 <= high < allocated
        # A missing High Bit is no contradiction (5% of CheXpert Plus): the value lies in the lowest bits.
        doubtful = not stored_is_possible or not (high_is_possible or high is None)
        return cls(allocated, stored, high if high_is_possible and high is not None else stored - 1, doubtful)

    def of_frame(self, bits: int) -> "Bits":
        """The bits after a codec has decoded a frame of `bits` a sample: it puts values into the lowest of 8 or 16."""
        allocated = 8 if bits <= 8 else 16
        contradicted = self.allocated != allocated
        stored = bits if contradicted else self.stored
        return Bits(allocated, stored, stored - 1, self.doubtful or contradicted)

    def taken_from(self, words: np.ndarray) -> tuple[np.ndarray, "Bits"]:
        """The stored values in whole words, and the bits that they use: those of the header unless they contradict it.

        - High Bit puts the values into the upper bits, but these are empty and the lowest are used: the values lie in
          the lowest bits (dcm4che, issue 512). Values in the upper bits would use those and leave the lowest empty.
        - Bits beyond the stored ones are used. Either old overlays (60xx,3000) or padding lie there, or the values need
          more bits than declared. If the extra bits are cut off, neighbours differ less in the first case. In the
          second case the values wrap around and differ more.
        """
        if self.high >= self.stored:
            in_lowest = _fits(words, self.stored)
            below = (1 << self.high - self.stored + 1) - 1
            if in_lowest and (words & words.dtype.type(below)).any():
                return words, self._replace(high=self.stored - 1, doubtful=True)
            return unpack_bits(words, self.stored, self.high), self
        if _fits(words, self.stored):
            return words, self
        cut = unpack_bits(words, self.stored, self.high)
        if _variation(cut) <= _variation(words):
            return cut, self
        return words, self._replace(stored=self.allocated, high=self.allocated - 1, doubtful=True)


def unpack_bits(values: np.ndarray, bits_stored: int, high_bit: int) -> np.ndarray:
    """Keep the `bits_stored` bits that end at `high_bit`, without overlays in the other bits (PS3.5, 8.1.1)."""
    allocated = 8 * values.dtype.itemsize
    if bits_stored == allocated:
        return values
    return (values << (allocated - 1 - high_bit)) >> (allocated - bits_stored)  # keeps the sign of signed words


def with_sign(words: np.ndarray, bits: int) -> np.ndarray:
    """Read the lowest `bits` of unsigned words as two's complement."""
    return unpack_bits(words.view(f"i{words.itemsize}"), bits, bits - 1)


def _fits(values: np.ndarray, bits: int) -> bool:
    """Whether every value needs no more than `bits`, with its sign if it has one."""
    if bits == 8 * values.itemsize:
        return True
    lowest, highest = extremes(values)
    return -(1 << bits - 1) <= lowest and highest < 1 << bits - 1 if values.dtype.kind == "i" else highest < 1 << bits


def _variation(values: np.ndarray) -> int:
    """Sum of the differences between horizontal neighbours."""
    return int(np.abs(np.diff(values.astype(np.int32), axis=1)).sum(dtype=np.int64))
