"""Checks the structure of a JPEG or JPEG-LS stream before a decoder sees it."""

import re
import struct
from typing import NamedTuple

from cxrpipe.errors import StudyError

_SIZE_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # 0xF7 begins a JPEG-LS frame (ITU T.87)
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SCAN_END_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
"""JPEG stuffs a byte after 0xFF. JPEG-LS stuffs a bit, so that a byte below 0x80 is data there (ITU T.87, A.1)."""


class Frame(NamedTuple):
    """The header of the frame."""

    rows: int
    columns: int
    bits: int
    kind: int
    """Second byte of the frame marker: 0xC0 baseline, 0xC3 lossless, …"""

    @property
    def is_lossless(self) -> bool:
        return self.kind in (0xC3, 0xC7, 0xCB, 0xCF, 0xF7)


def check(data: bytes, name: str) -> Frame:
    """Walk all segments to the end marker and return the frame (ITU T.81, annex B).

    OpenCV and other decoders read a truncated JPEG without an error and fill the rest with grey.
    """
    position, frame, scan_end = 2, None, _SCAN_END
    while True:
        marker = data[position : position + 2]
        if len(marker) < 2:
            raise StudyError("truncated", f"{name}: the JPEG ends before its end marker; copy the file again")
        if marker[0] != 0xFF:
            raise StudyError(
                "corrupt",
                f"{name}: the JPEG has {marker.hex()} at byte {position:,}; expected a marker; copy the file again",
            )
        kind = marker[1]
        if kind == 0xFF:  # fill byte
            position += 1
            continue
        if kind == 0xD9:
            if frame is None:
                raise StudyError("corrupt", f"{name}: the JPEG has no frame; expected an image")
            return frame
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if len(segment) != length - 2:
            raise StudyError("truncated", f"{name}: the JPEG ends inside a segment; copy the file again")
        if kind in _SIZE_MARKERS:
            if len(segment) < 5:
                raise StudyError(
                    "corrupt", f"{name}: the frame header of the JPEG has {len(segment)} bytes; expected 5 or more"
                )
            bits, rows, columns = struct.unpack(">BHH", segment[:5])
            frame = Frame(rows, columns, bits, kind)
            scan_end = _SCAN_END_LS if kind == 0xF7 else _SCAN_END
        position += 2 + length
        if kind == 0xDA:  # entropy-coded data follow up to the next marker that is no restart
            end = scan_end.search(data, position)
            position = end.start() if end else len(data)
