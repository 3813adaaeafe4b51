"""An answer of a decoder's process is believed as far as it follows from the question, and read without pickle."""

import os
import pickle
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import decoders
import numpy as np
import pytest

from cxrpipe.errors import StudyError
from cxrpipe.images import answers
from cxrpipe.images.answers import DecoderError, WrongAnswerError
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import Decode, Decoded
from cxrpipe.records import REASONS

QUESTION = (Preparation("voi", 3), Preparation("nih", 4))
SQUARES = {each: np.arange(each.side_px**2, dtype=np.uint8).reshape(each.side_px, -1) for each in QUESTION}
DECODED = Decoded(2000, 2500, blank=True, squares=SQUARES, flags=("few_bits_used", "ood"))
HEADER = "<4scBIIIQ"


def sent(send: Callable[[socket.socket], None]) -> bytes:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(theirs)
        return ours.recv(100_000)


def received(data: bytes, most: int = 20_000) -> Decoded:
    """Fails where more bytes are made room for than any answer has."""
    position = 0

    def read(size: int) -> bytearray:
        nonlocal position
        assert size <= most
        piece = data[position : position + size]
        position += size
        if len(piece) < size:
            raise EOFError
        return bytearray(piece)

    return answers.receive(read, QUESTION)


def answer(
    *,
    magic: bytes = b"cxr1",
    kind: bytes = b"d",
    blank: int = 0,
    size_px: tuple[int, int] = (20, 30),
    text: bytes = b"",
    pixels: bytes = bytes(25),
    text_bytes: int | None = None,
    pixel_bytes: int | None = None,
) -> bytes:
    """As a decoder that was taken over would write it."""
    texts = len(text) if text_bytes is None else text_bytes
    return (
        struct.pack(HEADER, magic, kind, blank, *size_px, texts, len(pixels) if pixel_bytes is None else pixel_bytes)
        + text
        + pixels
    )


def test_what_is_sent_is_received():
    decoded = received(sent(lambda pipe: answers.send_decoded(pipe, DECODED, QUESTION)))
    assert decoded[:3] == DECODED[:3]
    assert decoded.flags == DECODED.flags
    assert all(np.array_equal(decoded.squares[each], SQUARES[each]) for each in QUESTION)
    assert [*decoded.squares] == [*QUESTION]


def test_a_plain_answer_is_received():
    assert received(answer()).squares[QUESTION[1]].shape == (4, 4)


@pytest.mark.parametrize(
    "data",
    [
        answer(magic=b"PK\x03\x04"),
        answer(kind=b"x"),
        answer(kind=b"r"),  # ready is said once, before the first question
        answer(pixels=bytes(24)),
        answer(pixels=bytes(26)),
        answer(pixels=b""),
        answer(pixels=bytes(25 * 3)),  # too many arrays
        answer(pixel_bytes=1 << 60),
        answer(text_bytes=0xFFFF_FFFF),
        answer(kind=b"s", text=b"corrupt\nwhy"),  # a refusal with pixels
        answer(kind=b"s", text=b"blessed\nwhy", pixels=b""),
        answer(kind=b"s", text=b"", pixels=b""),
        answer(kind=b"b", text=b"\nwhy\n", pixels=b""),
        answer(kind=b"b", text=b"Two Words\nwhy\n", pixels=b""),
        answer(size_px=(0, 30)),
        answer(size_px=(0xFFFF_FFFF, 0xFFFF_FFFF)),
        answer(text=b"<script>"),
        answer(text=b"ood\n"),
        answer(text=b"\n".join([b"ood"] * 100)),
        answer(text=b"o" * 100),
        pickle.dumps(DECODED),
    ],
)
def test_what_does_not_follow_from_the_question_is_no_answer(data):
    with pytest.raises(WrongAnswerError):
        received(data)


@pytest.mark.parametrize("length", [0, 1, 25, 26, 27, 50])
def test_an_answer_that_is_cut_short_is_missing_bytes(length):
    with pytest.raises(EOFError):
        received(answer()[:length])


def test_a_refusal_is_one_line_of_2000_characters_that_can_be_printed():
    error = StudyError("corrupt", "a.png: \x1b[2J\r\n" + "\udcff\u202e" + "x" * 10_000)
    with pytest.raises(StudyError) as caught:
        received(sent(lambda pipe: answers.send_refusal(pipe, error)))
    assert caught.value.reason == "corrupt"
    assert caught.value.detail.startswith("a.png:  [2J  \\udcff xxx")
    assert len(caught.value.detail) == 2000


def test_bytes_that_are_no_text_are_read_as_text():
    with pytest.raises(StudyError) as caught:
        received(answer(kind=b"s", text=b"corrupt\n\xff\x00why", pixels=b""))
    assert caught.value.detail == "\ufffd why"


def test_a_bug_keeps_its_kind_its_message_and_the_end_of_its_traceback():
    lines = "".join(f"line {number}\n" for number in range(5000))
    with pytest.raises(DecoderError) as caught:
        received(sent(lambda pipe: answers.send_bug(pipe, ValueError("two\nlines"), lines)))
    assert str(caught.value) == "ValueError: two lines"
    assert caught.value.kind == "ValueError"
    assert "line 4999" in caught.value.__notes__[0]
    assert len(caught.value.__notes__[0]) < 5000


# ---- said by a real process -----------------------------------------------------------------------------------


class _Writes:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self._path),)


def detail_of(decode: Decode, data: bytes) -> str:
    with Isolated(decode, timeout_s=60) as taken_over, pytest.raises(StudyError) as caught:
        taken_over(data, "a.png", QUESTION)
    assert caught.value.reason == "crashed"
    return caught.value.detail


def test_a_decoder_that_answers_with_a_pickle_has_crashed_and_the_pickle_is_not_loaded(tmp_path):
    pickled = pickle.dumps(_Writes(tmp_path / "written"))
    for framed in (pickled, struct.pack("!i", len(pickled)) + pickled):  # the second as multiprocessing frames it
        assert "answered with bytes without a header" in detail_of(decoders.say, framed + bytes(100))
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    "data", [answer(pixels=bytes(24)), answer(pixel_bytes=1 << 60), answer(text_bytes=0xFFFF_FFFF)]
)
def test_a_decoder_that_answers_with_wrong_sizes_has_crashed(data):
    assert "answered with" in detail_of(decoders.say, data)


def test_a_decoder_that_ends_within_its_answer_has_crashed():
    assert "exited with 0" in detail_of(decoders.say_and_end, answer()[:20])


def test_the_reasons_of_a_decoder_are_words_of_the_table_of_reasons():
    assert set(REASONS) >= answers.REASONS
