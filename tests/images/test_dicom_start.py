"""DICOM is known by its bytes, with or without what should stand before them; other bytes are not."""

import io
import os
import random

import numpy as np
import pydicom.uid
import pytest
from builders import jpeg, pixels, png, radiograph
from dicoms import dataset, saved

from cxrpipe.images.dicom import begins_as_dicom, header_of, parse

FILM = radiograph(rows=40, columns=30)
WHOLE = saved(dataset(FILM, BodyPartExamined="CHEST"))
RIGHT = pixels(WHOLE)
META_LENGTH = 12  # bytes of (0002,0000)
NO_META_LENGTH = WHOLE[132 + META_LENGTH :]


def without_meta(syntax: str) -> bytes:
    file = io.BytesIO()
    made = dataset(FILM, syntax=syntax)
    made.file_meta.clear()
    implicit = syntax == pydicom.uid.ImplicitVRLittleEndian
    pydicom.dcmwrite(file, made, implicit_vr=implicit, little_endian=syntax != pydicom.uid.ExplicitVRBigEndian)
    return file.getvalue()


def without_element(data: bytes, element: int) -> bytes:
    """Raw file meta information from (0002,`element`) on."""
    return data[data.index(b"\2\0" + element.to_bytes(2, "little")) :]


STARTS = {
    "preamble": WHOLE,
    "preamble of a TIFF": b"II*\0" + os.urandom(124) + WHOLE[128:],
    "no preamble": WHOLE[128:],
    "no preamble and no DICM": WHOLE[132:],
    "no group length": NO_META_LENGTH,
    "preamble, no group length": WHOLE[:132] + NO_META_LENGTH,
    "preamble without DICM": WHOLE[:128] + WHOLE[132:],
    "from (0002,0002)": without_element(NO_META_LENGTH, 2),
    "from (0002,0010)": without_element(NO_META_LENGTH, 0x10),
    "four zeros before": b"\0" * 4 + NO_META_LENGTH,
    "junk before the preamble": b"HTTP junk \r\n\r\n" + WHOLE,
    "explicit, no meta": without_meta(pydicom.uid.ExplicitVRLittleEndian),
    "implicit, no meta": without_meta(pydicom.uid.ImplicitVRLittleEndian),
    "big endian, no meta": without_meta(pydicom.uid.ExplicitVRBigEndian),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_file_is_read_wherever_dicom_begins_in_it(start):
    assert begins_as_dicom(STARTS[start])
    assert np.array_equal(pixels(STARTS[start]), RIGHT)


@pytest.mark.parametrize("start", STARTS)
def test_the_first_bytes_are_enough_to_know_it(start):
    assert begins_as_dicom(STARTS[start][:256])


@pytest.mark.parametrize("start", STARTS)
def test_a_file_that_is_cut_in_its_pixels_is_truncated_wherever_it_begins(start):
    _, cut_in = parse(STARTS[start][:-100], start)
    assert cut_in == 0x7FE0_0010
    assert header_of(parse(STARTS[start], start)[0], start).study_instance_uid == "1.2.3.4"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 300,
        b"\x08\0\x05\0",
        b"\x02\0\x00\0UL\x04\0",
        png(FILM),
        jpeg(FILM),
        b"8,7,a,b,c,d,e,f,g,h,i,j\n",
        b"study_id,path\n" * 20,
        "Ein Befund über DICM und mehr".encode("utf-16"),
        b"\x08\0\x10\0" + b"\xff" * 300,
        b"\x08\0" * 200,
        b"\x02\0" * 200,
        b"PK\3\4" + b"\0" * 300,
    ],
)
def test_other_bytes_are_not_taken_for_dicom(data):
    assert not begins_as_dicom(data)


def test_random_bytes_are_not_taken_for_dicom():
    """Not even those that begin with a group of DICOM."""
    rng = random.Random(0)
    for group in (2, 8):
        for _ in range(5_000):
            assert not begins_as_dicom(bytes([group, 0, rng.randrange(32), 0]) + rng.randbytes(1_500))
