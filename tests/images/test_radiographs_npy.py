"""An image of an array, as the bytes of an .npy file: judged by its header before memory is taken."""

import io

import numpy as np
import pytest
from builders import radiograph

from cxrpipe.errors import StudyError
from cxrpipe.images import radiographs


def npy(pixels: np.ndarray) -> bytes:
    saved = io.BytesIO()
    np.save(saved, pixels, allow_pickle=True)
    return saved.getvalue()


def header(shape: str, dtype: str = "|u1", order: bool = False) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_grey_values_are_those_of_the_array():
    grey = radiograph()
    assert np.array_equal(radiographs.decode(npy(grey), "voi").pixels, grey)
    assert np.array_equal(radiographs.decode(npy(grey.astype(np.uint16) * 257), "voi").pixels, grey)


def test_colours_of_an_array_are_red_green_blue():
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 255
    assert radiographs.decode(npy(red), "voi").pixels[0, 0] == 76  # 0.299 of 255: ITU-R BT.601


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (npy(radiograph())[:-1], "truncated"),
        (npy(radiograph())[:40], "corrupt"),
        (b"\x93NUMPY\x07\x00", "corrupt"),
        (b"\x93NUMPY", "corrupt"),
        (npy(radiograph(rows=4, columns=4)), "too_small"),
        (header("(60000, 60000)"), "too_large"),
        (header("(10**9,)"), "corrupt"),
        (header("(-4, -4)"), "too_small"),
        (npy(radiograph().astype(np.float32)), "not_an_image"),
        (npy(np.zeros((2, 30, 30, 3), np.uint8)), "not_an_image"),
        (npy(np.asfortranarray(radiograph())), "not_an_image"),
        (npy(np.array([[{}]])), "not_an_image"),
    ],
)
def test_bytes_that_are_no_picture_have_a_reason(data, reason):
    with pytest.raises(StudyError) as error:
        radiographs.decode(data, "voi")
    assert error.value.reason == reason
