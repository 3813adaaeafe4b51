"""PNG, JPEG, TIFF, BMP and WebP are read as Pillow reads them, within a grey level, or refused with a reason."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import pixels, png, radiograph, reason
from PIL import Image, ImageOps
from tiffs import tiff

from cxrpipe.errors import StudyError
from cxrpipe.images import radiographs
from cxrpipe.images.rasters import LeastSize, turned

FILM = cv2.resize(radiograph(rows=12, columns=10), (50, 60), interpolation=cv2.INTER_CUBIC)  # (60, 50)
DEEP = FILM.astype(np.uint16) * 257
COLOUR = np.dstack([FILM, FILM[::-1], FILM[:, ::-1]])  # red, green, blue


def saved(image: np.ndarray | Image.Image, form: str, **settings: object) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture.save(file, form, **settings)
    return file.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    """(H, W) int: turned by its orientation, in luminance; 16 bits over 257."""
    opened = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if opened.mode.startswith("I;16"):
        return np.rint(np.asarray(opened) / 257).astype(int)
    return np.asarray(opened.convert("RGB").convert("L")).astype(int)


def agrees_with_pillow(data: bytes) -> bool:
    found = pixels(data).astype(int)
    expected = by_pillow(data)
    return found.shape == expected.shape and np.abs(found - expected).max() <= 1


# --- TIFF ---


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
@pytest.mark.parametrize("values", [FILM, COLOUR], ids=["grey", "colour"])
def test_a_compressed_tiff_is_read(values, compression):
    assert agrees_with_pillow(saved(values, "TIFF", compression=compression))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("values", [FILM, DEEP], ids=["8 bits", "16 bits"])
def test_a_tiff_is_read_in_either_order_of_bytes(values, order):
    assert np.array_equal(pixels(tiff(values, order=order)), FILM)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("values", [FILM, DEEP], ids=["8 bits", "16 bits"])
def test_a_tiff_whose_zero_is_white_is_inverted(values, order):
    assert np.array_equal(pixels(tiff(values, order=order, tags={262: 0})), 255 - FILM)


def test_a_tiff_of_one_bit_is_black_and_white_whichever_is_zero():
    for photometric in (0, 1):
        rows = np.packbits(FILM > 127, axis=1)
        data = tiff(rows, tags={256: 50, 258: 1, 262: photometric})
        assert np.array_equal(pixels(data), np.where((FILM > 127) == photometric, 255, 0))


def test_a_tiff_with_a_palette_or_alpha_is_read():
    assert agrees_with_pillow(saved(Image.fromarray(COLOUR).quantize(64), "TIFF"))
    alpha = np.full_like(FILM, 255)
    assert np.array_equal(pixels(tiff(np.dstack([FILM, FILM, FILM, alpha]))), FILM)


def test_a_fourth_sample_of_a_tiff_that_is_no_alpha_does_not_blacken_it():
    assert np.array_equal(pixels(tiff(np.dstack([FILM] * 3 + [0 * FILM]), tags={338: 0})), FILM)


def test_a_tiff_of_12_bits_is_read_over_all_of_its_range():
    values = FILM.astype(np.uint16) * 16 + FILM // 16
    bits = (values[..., None] >> np.arange(11, -1, -1)).astype(np.uint8) & 1
    data = tiff(np.packbits(bits.reshape(60, -1), axis=1), tags={256: 50, 258: 12})
    assert np.abs(pixels(data).astype(int) - FILM).max() <= 1


def test_thumbnails_behind_the_picture_do_not_matter():
    assert np.array_equal(pixels(tiff(FILM, FILM[::4, ::4])), FILM)


def test_a_tiff_of_several_pictures_is_no_radiograph():
    assert reason(tiff(FILM, FILM)) == "not_chest"


@pytest.mark.parametrize("tags", [{339: 2}, {339: 3, 258: 32}, {262: 5}, {262: 8}, {258: 4}, {258: 32}], ids=str)
def test_a_tiff_whose_samples_are_not_read_is_refused_in_words(tags):
    with pytest.raises(StudyError, match="save it as PNG") as refused:
        pixels(tiff(FILM, tags=tags))
    assert refused.value.reason == "not_an_image"


def test_a_float_tiff_of_pillow_and_a_big_tiff_are_refused_in_words():
    assert reason(saved(FILM.astype(np.float32), "TIFF")) == "not_an_image"
    assert reason(saved(FILM, "TIFF", big_tiff=True)) == "not_an_image"


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 273, 277, 278, 279, 339])
def test_a_tag_of_a_tiff_without_a_value_is_no_bug_of_ours(tag):
    assert reason(tiff(radiograph(), tags={tag: ()})) == "corrupt"


def test_a_tiff_that_is_cut_is_truncated_wherever_it_is_cut():
    for data in (tiff(FILM), saved(FILM, "TIFF", compression="tiff_lzw")):
        cuts = np.linspace(8, len(data) - 1, 60, dtype=int)
        assert {reason(data[:cut]) for cut in cuts} == {"truncated"}


def test_a_tiff_with_too_many_pixels_is_refused_by_its_header():
    assert reason(tiff(FILM, tags={256: 60_000, 257: 60_000})) == "too_large"


# --- BMP ---


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_a_bmp_is_read(mode):
    assert agrees_with_pillow(saved(Image.fromarray(COLOUR).convert(mode), "BMP"))


def bmp(body: bytes, bits: int, *, rows: int = 60, compression: int = 0, masks: bytes = b"") -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 50, rows, 1, bits, compression, len(body), 0, 0, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + len(body), 0, 0, 14 + len(header)) + header + body


def test_the_fourth_byte_of_a_bmp_does_not_blacken_it():
    body = np.dstack([FILM, FILM, FILM, 0 * FILM])
    assert np.array_equal(pixels(bmp(body[::-1].tobytes(), 32)), FILM)
    masks = struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF)
    assert np.array_equal(pixels(bmp(body[::-1].tobytes(), 32, compression=3, masks=masks)), FILM)


def test_a_bmp_whose_first_row_comes_first_is_not_upside_down():
    assert np.array_equal(pixels(bmp(np.dstack([FILM] * 3 + [FILM]).tobytes(), 32, rows=-60)), FILM)


def test_a_bmp_that_is_cut_is_truncated_wherever_it_is_cut():
    data = saved(FILM, "BMP")
    assert {reason(data[:cut]) for cut in np.linspace(20, len(data) - 1, 60, dtype=int)} == {"truncated"}


def test_a_bmp_that_is_not_read_is_refused_in_words():
    for bits, compression in ((8, 1), (16, 0)):
        assert reason(bmp(bytes(60 * 100), bits, compression=compression)) == "not_an_image"


# --- WebP ---


@pytest.mark.parametrize("settings", [{"lossless": True}, {"quality": 90}], ids=str)
@pytest.mark.parametrize("values", [FILM, COLOUR], ids=["grey", "colour"])
def test_a_webp_is_read(values, settings):
    assert agrees_with_pillow(saved(values, "WEBP", **settings))


def test_what_is_transparent_in_a_webp_is_black_as_in_a_png():
    alpha = np.where(np.arange(50) < 20, 0, 255).astype(np.uint8) + 0 * FILM
    grey = np.dstack([FILM, FILM, FILM, alpha])
    found = pixels(saved(grey, "WEBP", lossless=True))
    assert np.array_equal(found, np.where(alpha > 0, FILM, 0))
    assert np.array_equal(found, pixels(saved(grey, "PNG")))


def test_a_webp_that_is_cut_is_truncated_wherever_it_is_cut():
    for settings in ({"lossless": True}, {"quality": 90}, {"lossless": True, "exif": exif(6)}):
        data = saved(FILM, "WEBP", **settings)
        assert {reason(data[:cut]) for cut in np.linspace(12, len(data) - 1, 40, dtype=int)} == {"truncated"}


def test_an_animated_webp_is_no_radiograph():
    frames = {"save_all": True, "append_images": [Image.fromarray(FILM[::-1])]}
    assert reason(saved(FILM, "WEBP", **frames)) == "not_chest"


def test_a_webp_with_too_many_pixels_is_refused_by_its_header():
    data = saved(np.dstack([FILM] * 3 + [FILM]), "WEBP", lossless=True, exif=exif(1))
    assert data[12:16] == b"VP8X"
    assert reason(data[:24] + b"\xff\xff\0\xff\xff\0" + data[30:]) == "too_large"


# --- Orientation ---


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_turned_by_its_exif_orientation_whatever_its_format(form, orientation):
    data = saved(FILM, form, exif=exif(orientation), **({"lossless": True} if form == "WEBP" else {}))
    assert agrees_with_pillow(data)
    assert agrees_with_pillow(saved(COLOUR, form, exif=exif(orientation))) or form == "JPEG"  # clipped colours


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("values", [FILM, DEEP, COLOUR], ids=["8 bits", "16 bits", "colour"])
def test_a_tiff_is_turned_by_its_own(values, orientation):
    grey = pixels(tiff(values))
    assert np.array_equal(pixels(tiff(values, tags={274: orientation})), turned(grey, orientation))
    assert agrees_with_pillow(tiff(FILM, tags={274: orientation}))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_alike_at_reduced_scale(orientation):
    large = cv2.resize(FILM, (400, 480))
    data = saved(large, "JPEG", exif=exif(orientation))
    whole, small = radiographs.decode(data, "voi"), radiographs.decode(data, "voi", at_least=LeastSize(120))
    assert small.pixels.shape == tuple(side // 4 for side in whole.pixels.shape)
    assert small.size_px == whole.size_px
    shrunk = cv2.resize(whole.pixels, small.pixels.shape[::-1], interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(shrunk - small.pixels).mean() < 2


@pytest.mark.parametrize("block", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\1\1\x12", b"junk" * 9])
def test_an_exif_block_that_cannot_be_read_says_nothing(block):
    whole = png(FILM)
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    assert np.array_equal(pixels(whole[:33] + chunk + whole[33:]), FILM)


# --- PNG and JPEG, as far as they are special ---


def with_significant_bits(values: np.ndarray, *bits: int) -> bytes:
    whole, content = png(values), bytes(bits)
    chunk = struct.pack(">I", len(content)) + b"sBIT" + content + struct.pack(">I", zlib.crc32(b"sBIT" + content))
    return whole[:33] + chunk + whole[33:]


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 15])
def test_samples_in_the_lowest_bits_are_scaled_where_sbit_says_how_many_there_are(bits):
    values = np.linspace(0, 2**bits - 1, 60 * 50).astype(np.uint16).reshape(60, 50)
    found = radiographs.decode(with_significant_bits(values, bits), "voi")
    assert np.abs(found.pixels - values / (2**bits - 1) * 255).max() <= 0.51
    assert found.flags == ()


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("scaled", ["shifted", "replicated", "by the range"])
@pytest.mark.parametrize("top", [1, 0.05])
def test_samples_that_were_scaled_up_as_the_standard_asks_are_left_alone(bits, scaled, top):
    """Also those of a film so dark that its values would fit into the bits that are named."""
    values = np.linspace(0, (2**bits - 1) * top, 60 * 50).astype(np.int64).reshape(60, 50)
    shifted = values << (16 - bits)
    stored = {
        "shifted": shifted,
        "replicated": shifted | values >> (2 * bits - 16),
        "by the range": np.rint(values * (65535 / (2**bits - 1))),
    }[scaled].astype(np.uint16)
    assert np.array_equal(pixels(with_significant_bits(stored, bits)), pixels(png(stored)))


def test_sbit_of_each_channel_is_followed_where_they_agree():
    values = np.linspace(0, 4095, 60 * 50).astype(np.uint16).reshape(60, 50)
    rgb = np.dstack([values] * 3)
    assert np.array_equal(pixels(with_significant_bits(rgb, 12, 12, 12)), pixels(with_significant_bits(values, 12)))
    assert np.array_equal(pixels(with_significant_bits(rgb, 12, 12, 9)), pixels(png(rgb)))
    rgba = np.dstack([rgb, np.full_like(values, 65535)])
    assert np.array_equal(
        pixels(with_significant_bits(rgba, 12, 12, 12, 16)), pixels(with_significant_bits(values, 12))
    )


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize(("bits", "flags"), [(10, True), (12, True), (14, True), (15, True), (16, False)])
def test_few_bits_in_a_16_bit_file_are_flagged_and_scored_as_stored(form, bits, flags):
    values = np.linspace(0, 2**bits - 1, 60 * 50).astype(np.uint16).reshape(60, 50)
    found = radiographs.decode(png(values) if form == "PNG" else tiff(values), "voi")
    assert np.abs(found.pixels - values / 257).max() <= 0.51
    assert found.flags == (("few_bits_used",) if flags else ())


def test_8_bit_files_have_no_such_flag():
    assert radiographs.decode(png(FILM // 9), "voi").flags == ()


def test_a_png_of_every_kind_is_as_pillow_reads_it():
    grey, colour = Image.fromarray(FILM), Image.fromarray(COLOUR)
    for image in (grey, colour, colour.quantize(16), colour.quantize(3), grey.convert("1"), grey.convert("LA")):
        assert agrees_with_pillow(saved(image, "PNG")), image.mode
        assert agrees_with_pillow(saved(image, "PNG", dpi=(90, 90), optimize=True)), image.mode


def test_gamma_and_the_one_transparent_value_of_a_grey_png_are_not_followed():
    whole, content = png(FILM), struct.pack(">I", 22_727)
    chunk = struct.pack(">I", 4) + b"gAMA" + content + struct.pack(">I", zlib.crc32(b"gAMA" + content))
    assert np.array_equal(pixels(whole[:33] + chunk + whole[33:]), FILM)
    assert np.array_equal(pixels(saved(FILM, "PNG", transparency=100)), FILM)


def test_what_a_palette_says_is_transparent_is_black():
    image = Image.fromarray(FILM).quantize(8)
    places = np.asarray(image)
    found = pixels(saved(image, "PNG", transparency=int(places[0, 0])))
    assert np.array_equal(found == 0, places == places[0, 0])


def test_an_interlaced_png_is_read():
    """Adam7 of two passes is written by hand: 16x16, in the order of the standard."""
    values = FILM[:16, :16]
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    lines = b"".join(
        b"\0" + line.tobytes() for top, down, left, across in passes for line in values[top::down, left::across]
    )
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 1)), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )
    assert np.array_equal(pixels(data), values)


def test_a_cmyk_jpeg_is_read_and_one_of_12_bits_is_refused_in_words():
    assert agrees_with_pillow(saved(Image.fromarray(FILM).convert("RGB").convert("CMYK"), "JPEG", quality=95))
    data = saved(FILM, "JPEG")
    place = data.index(b"\xff\xc0") + 4
    with pytest.raises(StudyError, match="a JPEG of 12 bits; expected 8"):
        pixels(data[:place] + b"\x0c" + data[place + 1 :])


# --- Real files ---


def test_the_suffixes_of_the_field_are_as_pillow_reads_them(real_data: Path):
    folder = real_data / "field" / "other_suffixes"
    if not folder.exists():
        pytest.skip("real data not found")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(files) == 14
    for path in files:
        assert agrees_with_pillow(path.read_bytes()), path


def test_12_bits_in_a_16_bit_file_of_the_field_are_flagged_and_with_sbit_are_the_right_file(real_data: Path):
    folder = real_data / "field" / "pixels"
    if not folder.exists():
        pytest.skip("real data not found")
    dark = (folder / "12_bits_unscaled_in_16.png").read_bytes()
    assert radiographs.decode(dark, "voi").flags == ("few_bits_used",)
    stored = cv2.imdecode(np.frombuffer(dark, np.uint8), cv2.IMREAD_UNCHANGED)
    right = pixels((folder / "right_16bit.png").read_bytes()).astype(int)
    assert np.abs(pixels(with_significant_bits(stored, 12)) - right).max() <= 1
