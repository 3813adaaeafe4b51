"""The structure of a JPEG or JPEG-LS stream, judged before any decoder sees it."""

import re
import struct
from typing import NamedTuple

from cxrpipe.errors import StudyError

_SIZE_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # 0xF7 begins a JPEG-LS frame (ITU T.87)
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SCAN_END_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
"""JPEG stuffs a byte after 0xFF, JPEG-LS a bit: there whatever is below 0x80 is data (ITU T.87, A.1)."""


class Frame(NamedTuple):
    rows: int
    columns: int
    bits: int
    kind: int
    """The second byte of its marker: 0xC0 baseline, 0xC3 lossless, …"""

    @property
    def is_lossless(self) -> bool:
        return self.kind in (0xC3, 0xC7, 0xCB, 0xCF, 0xF7)


def check(data: bytes, name: str) -> Frame:
    """The frame, after walking all segments to the end marker (ITU T.81, annex B).

    OpenCV reads a truncated JPEG without a word and makes the rest grey; so do other decoders.
    """
    position, frame, scan_end = 2, None, _SCAN_END
    while True:
        marker = data[position : position + 2]
        if len(marker) < 2:
            raise StudyError("truncated", f"{name}: a JPEG without its end marker")
        if marker[0] != 0xFF:
            raise StudyError("corrupt", f"{name}: a JPEG with no marker where one belongs")
        kind = marker[1]
        if kind == 0xFF:  # fill byte
            position += 1
            continue
        if kind == 0xD9:
            if frame is None:
                raise StudyError("corrupt", f"{name}: a JPEG without an image")
            return frame
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if len(segment) != length - 2:
            raise StudyError("truncated", f"{name}: a JPEG that ends inside a segment, or gives it no length")
        if kind in _SIZE_MARKERS:
            if len(segment) < 5:
                raise StudyError("corrupt", f"{name}: a JPEG whose header is too short")
            bits, rows, columns = struct.unpack(">BHH", segment[:5])
            frame = Frame(rows, columns, bits, kind)
            scan_end = _SCAN_END_LS if kind == 0xF7 else _SCAN_END
        position += 2 + length
        if kind == 0xDA:  # entropy-coded data follow, to the next marker that is not a restart
            end = scan_end.search(data, position)
            position = end.start() if end else len(data)
