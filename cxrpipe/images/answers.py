"""The answer of a decoder's process: a header of fixed size, a text of limited size, and the requested squares.

A malicious file may have taken over the process that decodes it. Answers are therefore read without pickle, and a size
that does not follow from the question is refused before memory is allocated. `read` raises EOFError if bytes are
missing.
"""

import re
import socket
import struct
from collections.abc import Callable, Sequence

import numpy as np

from cxrpipe.errors import StudyError
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.rasters import MAX_PIXELS
from cxrpipe.images.squares import Decoded

_HEADER = struct.Struct("<4scBIIIQ")  # magic, kind, blank, rows_px, columns_px, bytes of text, bytes of pixels
_MAGIC = b"cxr1"
_READY, _DECODED, _REFUSED, _BUG = b"rdsb"
REASONS = frozenset(
    (
        *("empty", "truncated", "corrupt", "not_an_image", "too_large", "too_small"),
        *("unsupported_transfer_syntax", "no_pixel_data", "not_chest", "crashed"),
    )
)
"""The part of `cxrpipe.records.REASONS` that a decoder may answer. A file cannot claim that its store denied access."""
_TEXT_BYTES = 16_000
_DETAIL_CHARACTERS = 2_000
_FLAGS = 16
_FLAG = re.compile(r"[a-z][a-z0-9_]{0,39}")
_KIND = re.compile(r"[A-Za-z_]\w{0,79}", re.ASCII)

Read = Callable[[int], bytearray]


class DecoderError(Exception):
    """A decoder raised an unexpected exception: a bug. A note holds the traceback of the decoder's process."""

    def __init__(self, kind: str, message: str, traceback: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind
        """Name of the exception's class."""
        self.add_note(traceback)


class WrongAnswerError(Exception):
    """The bytes of a process are not an answer to the question."""


# ---- in the decoder's process --------------------------------------------------------------------------------


def send_ready(pipe: socket.socket, parts: Sequence[str]) -> None:
    """Report that the process has started, and which parts of its wall stand."""
    _send(pipe, _READY, "\n".join(parts))


def send_decoded(pipe: socket.socket, decoded: Decoded, preparations: Sequence[Preparation]) -> None:
    """Answer with one square for each preparation, in their order."""
    squares = [np.ascontiguousarray(decoded.squares[preparation], np.uint8) for preparation in preparations]
    _send(pipe, _DECODED, "\n".join(decoded.flags), decoded, squares)


def send_refusal(pipe: socket.socket, error: StudyError) -> None:
    """Answer with the reason why the file is refused."""
    _send(pipe, _REFUSED, f"{error.reason}\n{error.detail[:_DETAIL_CHARACTERS]}")


def send_bug(pipe: socket.socket, error: BaseException, traceback: str) -> None:
    """Answer with an exception. Of a long traceback only the end is sent, which names the place."""
    _send(pipe, _BUG, f"{type(error).__name__}\n{_one_line(str(error))}\n{traceback[-_TEXT_BYTES // 4 :]}")


def _send(
    pipe: socket.socket, kind: int, text: str, decoded: Decoded | None = None, squares: Sequence[np.ndarray] = ()
) -> None:
    encoded = text.encode(errors="replace")[:_TEXT_BYTES]
    facts = (decoded.blank, decoded.rows_px, decoded.columns_px) if decoded else (False, 0, 0)
    sizes = len(encoded), sum(square.nbytes for square in squares)
    pipe.sendall(_HEADER.pack(_MAGIC, bytes([kind]), *facts, *sizes) + encoded)
    for square in squares:
        pipe.sendall(square.data)


# ---- in the parent -------------------------------------------------------------------------------------------


def receive_ready(read: Read) -> tuple[str, ...]:
    """The parts of the wall that stand in the process."""
    kind, _, _, _, text = _receive(read, 0)
    if kind != _READY:
        raise WrongAnswerError("an answer before the first question")
    return tuple(text.split())


def receive(read: Read, preparations: Sequence[Preparation]) -> Decoded:
    """Read the answer to a question for `preparations`. Raises the StudyError or DecoderError that it reports."""
    kind, blank, rows_px, columns_px, text = _receive(read, sum(preparation.side_px**2 for preparation in preparations))
    if kind == _REFUSED:
        reason, _, detail = text.partition("\n")
        if reason not in REASONS:
            raise WrongAnswerError("an unknown reason")
        raise StudyError(reason, _one_line(detail))
    if kind == _BUG:
        name, _, rest = text.partition("\n")
        if not _KIND.fullmatch(name):
            raise WrongAnswerError("an exception without a name")
        message, _, traceback = rest.partition("\n")
        raise DecoderError(name, _one_line(message), "\n".join(map(_one_line, traceback.split("\n"))))
    if kind != _DECODED or not 0 < rows_px * columns_px <= MAX_PIXELS:
        raise WrongAnswerError(f"an image of {rows_px} x {columns_px} pixels")
    flags = tuple(text.split("\n")) if text else ()
    if len(flags) > _FLAGS or not all(map(_FLAG.fullmatch, flags)):
        raise WrongAnswerError("flags that are not words")
    squares = {
        preparation: np.frombuffer(read(preparation.side_px**2), np.uint8).reshape(2 * (preparation.side_px,))
        for preparation in preparations
    }
    return Decoded(rows_px, columns_px, blank, squares, flags)


def _receive(read: Read, pixels_of_answer: int) -> tuple[int, bool, int, int, str]:
    """Kind, blank, rows_px, columns_px and text. The number of pixels is checked; the pixels are not read yet."""
    magic, kind, blank, rows_px, columns_px, text_bytes, pixel_bytes = _HEADER.unpack(read(_HEADER.size))
    if magic != _MAGIC:
        raise WrongAnswerError("bytes without a header")
    if text_bytes > _TEXT_BYTES or pixel_bytes != (pixels_of_answer if kind[0] == _DECODED else 0):
        raise WrongAnswerError(f"{text_bytes} bytes of text and {pixel_bytes} of pixels")
    return kind[0], blank != 0, rows_px, columns_px, read(text_bytes).decode(errors="replace")


def _one_line(text: str) -> str:
    """Replace control characters, which could rewrite a terminal or a log, by spaces; cut a long text."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:_DETAIL_CHARACTERS])
