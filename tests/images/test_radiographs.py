"""Bytes become the right pixels or a reason, and never half a picture."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import jpeg, pixels, png, radiograph, reason
from PIL import Image

from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.errors import StudyError
from cxrpipe.images import letterbox, radiographs
from cxrpipe.images.png import SIGNATURE
from cxrpipe.images.rasters import LeastSize

GREY = radiograph(rows=100, columns=80)
COLOUR = np.random.default_rng(1).integers(0, 256, (100, 80, 3), dtype=np.uint8)  # red, green, blue
SMOOTH = cv2.resize(radiograph(rows=12, columns=10), (200, 240), interpolation=cv2.INTER_CUBIC)


def saved(image: Image.Image, form: str = "PNG", **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def grey_png(bits: int, rows: np.ndarray) -> bytes:
    """A grey PNG of 1, 2 or 4 bits; `rows` (H, W) holds the values. Encoders would choose their own depth."""
    bitwise = np.unpackbits(rows[..., None], axis=-1)[..., -bits:].reshape(len(rows), -1)
    lines = b"".join(b"\0" + np.packbits(line).tobytes() for line in bitwise)
    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], bits, 0, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


# --- Pixels ---


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_grey_values_are_the_same_however_a_png_stores_them(mode):
    assert np.array_equal(pixels(saved(Image.fromarray(GREY).convert(mode))), GREY)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_spread_over_all_of_the_range(bits):
    values = GREY >> (8 - bits)
    assert np.array_equal(pixels(grey_png(bits, values)), values * (255 // (2**bits - 1)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_divided_by_257(channels):
    values = np.random.default_rng(2).integers(0, 65536, (40, 50), dtype=np.uint16)
    values[0, :2] = 0, 65535
    stored = values if channels == 1 else np.dstack([values] * 3 + [np.full_like(values, 65535)] * (channels - 3))
    assert np.abs(pixels(png(stored)) - values / 257).max() <= 0.5


def test_the_scale_of_a_dark_image_is_not_guessed():
    """segmentation_models divides by 255 only where some value exceeds 1."""
    assert pixels(png(GREY // 255)).max() == 1
    assert pixels(png(np.full((40, 40), 257 * 3, np.uint16))).max() == 3


@pytest.mark.parametrize("palette", [False, True])
def test_colours_become_their_luminance(palette):
    colour = Image.fromarray(COLOUR)
    colour = colour.quantize(64) if palette else colour
    expected = np.asarray(colour.convert("RGB").convert("L"))
    assert np.abs(pixels(saved(colour)).astype(int) - expected).max() <= 1


def test_what_is_transparent_is_black():
    alpha = np.tile(np.array([0, 51, 255, 255], np.uint8), (100, 20))
    found = pixels(saved(Image.fromarray(np.dstack([GREY, GREY, GREY, alpha]))))
    assert np.array_equal(found, np.rint(GREY * (alpha / 255)))


@pytest.mark.parametrize("form", ["baseline", "progressive", "restarts", "colour"])
def test_a_jpeg_is_decoded_as_pillow_does(form):
    image = Image.fromarray(SMOOTH if form != "colour" else COLOUR)
    settings = {"progressive": {"progressive": True}, "restarts": {"restart_marker_rows": 1}}.get(form, {})
    data = saved(image, "JPEG", quality=90, **settings)
    opened = Image.open(io.BytesIO(data))
    opened.draft("L", opened.size)  # the stored luminance, not that of clipped colours
    assert np.array_equal(pixels(data), np.asarray(opened))


def test_an_image_keeps_its_rows_and_columns():
    assert pixels(png(radiograph(rows=33, columns=20))).shape == (33, 20)
    assert pixels(jpeg(radiograph(rows=33, columns=20))).shape == (33, 20)


def test_an_unknown_intensity_is_a_mistake_of_ours():
    with pytest.raises(ValueError, match="chexpert_v9"):
        radiographs.decode(png(GREY), "chexpert_v9")


def test_the_three_rgba_images_of_the_real_archive_are_their_grey_values(real_data: Path, tmp_path: Path):
    catalogue = Catalogue(str(real_data / "nih"), tmp_path)
    found = [data for data in map(catalogue.read, catalogue.images()) if data[25] == 6]  # colour type: RGBA
    assert len(found) == 3
    for data in found:
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
        assert np.array_equal(pixels(data), expected)
        assert pixels(data).shape == (1024, 1024)


# --- Blank, masks ---


def test_blank_is_what_has_no_contrast():
    faint = np.full((64, 64), 100, np.uint8)
    assert radiographs.is_blank(faint)
    faint[0] = 101
    assert radiographs.is_blank(faint)
    faint[:, ::2] = 103
    assert not radiographs.is_blank(faint)


def test_blank_is_decided_by_all_rows_wherever_the_contrast_is():
    rng = np.random.default_rng(3)
    for number in range(300):
        film = np.full((rng.integers(16, 90), rng.integers(16, 90)), 100, np.uint8)
        film[:: rng.integers(1, 40)] += rng.integers(0, 12, dtype=np.uint8)
        film[:, : rng.integers(1, 9)] += rng.integers(0, 4, dtype=np.uint8)
        assert radiographs.is_blank(film) == (film.std() < 1), number


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_a_mask_is_what_is_bright_in_whatever_unit(top):
    stored = np.zeros((40, 30), np.uint8 if top < 256 else np.uint16)
    stored[10:20, 5:25] = top
    assert np.array_equal(radiographs.decode_mask(png(stored)), stored > 0)


def test_a_mask_of_0_and_1_in_16_bits_is_not_lost():
    stored = np.zeros((40, 30), np.uint16)
    stored[10:20] = 1
    assert radiographs.decode_mask(png(stored)).sum() == 300


def test_a_black_mask_is_empty():
    assert not radiographs.decode_mask(png(np.zeros((40, 30), np.uint8))).any()


def test_a_mask_with_soft_edges_ends_at_half():
    ramp = np.arange(0, 256, 15, dtype=np.uint8)
    stored = np.tile(np.concatenate([np.zeros(60, np.uint8), ramp, np.full(90, 255, np.uint8)]), (20, 1))
    assert np.array_equal(radiographs.decode_mask(png(stored)), stored > 127)


# --- Bad bytes ---


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bomb_60000x60000.png", "too_large"),
        ("empty.png", "empty"),
        ("flipped_bytes.png", "corrupt"),
        ("no_pixels.dcm", "no_pixel_data"),
        ("not_dicom.dcm", "not_an_image"),
        ("one_pixel.png", "too_small"),
        ("text_named.png", "not_an_image"),
        ("truncated.dcm", "truncated"),
        ("truncated.jpg", "truncated"),
        ("truncated.png", "truncated"),
        ("truncated.tar.gz", "not_an_image"),
    ],
)
def test_a_real_bad_file_has_its_reason(real_data: Path, name: str, expected: str):
    assert reason((real_data / "bad" / name).read_bytes()) == expected


def test_a_real_black_image_can_be_read_and_is_blank(real_data: Path):
    assert radiographs.is_blank(pixels((real_data / "bad" / "all_black.png").read_bytes()))


WHOLE = {
    "png": png(SMOOTH),
    "png in colour": saved(Image.fromarray(COLOUR)),
    "jpeg": saved(Image.fromarray(SMOOTH), "JPEG"),
    "progressive jpeg": saved(Image.fromarray(SMOOTH), "JPEG", progressive=True, restart_marker_rows=1),
    "jpeg with restarts": saved(Image.fromarray(SMOOTH), "JPEG", restart_marker_rows=2),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_that_is_cut_is_truncated_wherever_it_is_cut(kind):
    data = WHOLE[kind]
    assert reason(data) == "picture"
    cuts = {*np.linspace(10, len(data) - 1, 60, dtype=int), *range(len(data) - 15, len(data))}
    assert {reason(data[:cut]) for cut in cuts} == {"truncated"}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("extra", [b"\0", b"\xff", b"\xff\xd8\xff\xe0 another", b"GARBAGE" * 999])
def test_bytes_after_the_end_are_no_matter(kind, extra):
    assert np.array_equal(pixels(WHOLE[kind] + extra), pixels(WHOLE[kind]))


def test_no_flipped_bit_of_a_png_gives_a_picture():
    data = png(GREY[:20, :20])
    for place in range(8, len(data)):
        assert reason(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]) != "picture", place


def test_a_png_that_holds_fewer_rows_than_it_declares_is_corrupt():
    """Every checksum holds, yet the pixels end early."""
    half = grey_png(4, GREY[:50] >> 4)
    header = struct.pack(">IIBBBBB", 80, 100, 4, 0, 0, 0, 0)
    assert reason(SIGNATURE + chunk(b"IHDR", header) + half[33:]) == "corrupt"


def test_a_png_without_pixels_or_header_is_corrupt():
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 80, 100, 8, 0, 0, 0, 0))
    assert reason(SIGNATURE + header + chunk(b"IEND", b"")) == "corrupt"
    assert reason(SIGNATURE + chunk(b"tEXt", b"a\0b") + header + chunk(b"IEND", b"")) == "corrupt"


def test_a_jpeg_without_an_image_is_corrupt():
    assert reason(b"\xff\xd8\xff\xd9") == "corrupt"
    assert reason(b"\xff\xd8\xff\xfe\x00\x04ab\xff\xd9") == "corrupt"


def test_a_short_comment_at_the_end_of_a_jpeg_is_no_truncation():
    data = WHOLE["jpeg"]
    assert reason(data[:-2] + b"\xff\xfe\x00\x02" + data[-2:]) == "picture"


def test_fill_bytes_before_a_marker_are_no_damage():
    data = WHOLE["jpeg"]
    assert reason(data[:2] + b"\xff\xff" + data[2:-2] + b"\xff\xff" + data[-2:]) == "picture"


def test_a_thumbnail_inside_a_jpeg_does_not_end_it():
    thumbnail = saved(Image.fromarray(GREY), "JPEG")
    application = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = WHOLE["jpeg"]
    assert np.array_equal(pixels(data[:2] + application + data[2:]), pixels(data))
    assert reason(data[:2] + application + data[2 : len(data) // 2]) == "truncated"


def test_too_many_pixels_are_refused_before_they_are_decoded():
    """Nothing here could be decoded: the header alone is judged."""
    header = struct.pack(">IIBBBBB", 10_001, 10_000, 8, 0, 0, 0, 0)
    data = SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert reason(data) == "too_large"
    assert reason(data.replace(header, struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0))) == "corrupt"


def test_a_jpeg_with_too_many_pixels_is_refused_by_its_header():
    data = WHOLE["jpeg"]
    size = struct.pack(">HH", 240, 200)
    assert reason(data.replace(size, struct.pack(">HH", 60_000, 60_000), 1)) == "too_large"


@pytest.mark.parametrize(
    ("rows", "columns", "expected"), [(15, 99, "too_small"), (99, 15, "too_small"), (16, 16, "picture")]
)
def test_what_is_smaller_than_any_radiograph_is_too_small(rows, columns, expected):
    assert reason(png(radiograph(rows=rows, columns=columns))) == expected


def test_a_complaint_names_the_file_and_what_is_wrong():
    message = r"s3://cxr/b07\.tar!p12/s3: the PNG ends inside the chunk IDAT; copy the file again"
    with pytest.raises(StudyError, match=message):
        radiographs.decode(WHOLE["png"][:-99], "voi", "s3://cxr/b07.tar!p12/s3")


# --- At reduced scale ---

LARGE = cv2.GaussianBlur(cv2.resize(radiograph(rows=50, columns=40), (800, 1000)), (0, 0), 3)  # (1000, 800)


@pytest.mark.parametrize(
    ("enough_px", "shape"), [(1001, (1000, 800)), (500, (500, 400)), (130, (250, 200)), (9, (125, 100))]
)
def test_a_jpeg_is_decoded_at_the_least_scale_that_is_enough(enough_px, shape):
    decoded = radiographs.decode(jpeg(LARGE), "voi", at_least=LeastSize(enough_px))
    assert decoded.pixels.shape == shape
    assert decoded.size_px == (1000, 800)


@pytest.mark.parametrize("intensity", ["voi", "mimic_v2"])
def test_what_is_prepared_at_reduced_scale_looks_the_same(intensity):
    full = letterbox.prepare(radiographs.decode(jpeg(LARGE), intensity), 64).astype(int)
    reduced = letterbox.prepare(radiographs.decode(jpeg(LARGE), intensity, at_least=LeastSize(128)), 64).astype(int)
    assert np.abs(full - reduced).mean() < 0.5  # grey levels
    assert np.abs(full - reduced).max() <= 4


def test_a_jpeg_turned_by_its_camera_has_the_size_of_what_is_seen():
    turned = Image.fromarray(LARGE).getexif()
    turned[0x0112] = 6
    data = saved(Image.fromarray(LARGE), "JPEG", exif=turned)
    assert radiographs.decode(data, "voi").size_px == (800, 1000)
    assert radiographs.decode(data, "voi", at_least=LeastSize(200)).size_px == (800, 1000)


def test_a_jpeg_that_ends_early_is_told_at_any_scale():
    with pytest.raises(StudyError, match="end"):
        radiographs.decode(jpeg(LARGE)[:-200], "voi", at_least=LeastSize(100))


def test_other_files_are_decoded_whole():
    assert radiographs.decode(png(LARGE), "voi", at_least=LeastSize(100)).pixels.shape == (1000, 800)
