"""Two decoders read PNGs, and which of them does is no matter: pixels and refusals are OpenCV's."""

import random
import struct
import tarfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pngs
import pytest
from builders import png, radiograph, reason
from mutations import mutated
from pngs import chunk, written

from cxrpipe.errors import StudyError
from cxrpipe.images import png as png_format
from cxrpipe.images import rasters

GREY = radiograph(rows=40, columns=30)[..., None]


def by_rust(data: bytes) -> np.ndarray | None:
    return png_format.decode(data, png_format.check(data, "a.png"))


def by_opencv(data: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def same(found: np.ndarray | None, expected: np.ndarray | None) -> bool:
    return (
        found is not None and expected is not None and found.dtype == expected.dtype and np.array_equal(found, expected)
    )


# --- Equal pixels ---


def test_every_kind_is_read_as_opencv_reads_it_whichever_decodes():
    decoded = set()
    for name, data in pngs.every_kind():
        facts = png_format.check(data, name)
        found, expected = png_format.decode(data, facts), by_opencv(data)
        if found is not None:
            assert same(found, expected), name
            decoded.add((facts.colour_type, facts.depth))
        assert same(rasters.stored(data, name), expected), name
    assert decoded == {(0, 8), (0, 16), (2, 8), (2, 16), (6, 8), (6, 16)}


@pytest.mark.parametrize("step", [15, pytest.param(1, marks=pytest.mark.slow)])
def test_every_real_png_is_read_as_opencv_reads_it(real_data: Path, step: int):
    found = real_pngs(real_data)
    assert len(found) >= 350
    decoded = 0
    for data in found[::step]:
        pixels = by_rust(data)
        assert pixels is None or same(pixels, by_opencv(data))
        decoded += pixels is not None
    assert decoded * step >= 300


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grey.png", "grey16.png", "rgba.png"])
def test_of_mutated_pngs_with_right_checksums_the_rust_decoder_reads_none_otherwise(kind: str):
    rng, decoded = random.Random(0), 0
    for data in (mutated(kind, rng, mended=True) for _ in range(600)):
        try:
            facts = png_format.check(data, kind)
            rasters.check_size(facts.rows_px, facts.columns_px, kind)
        except StudyError:
            continue
        if (found := png_format.decode(data, facts)) is not None:
            assert same(found, by_opencv(data))
            decoded += 1
    assert decoded > 10


def real_pngs(folder: Path) -> list[bytes]:
    """The films of NIH out of their tar.gz, and all PNGs that lie in folders."""
    paths = [path for path in sorted(folder.rglob("*.png")) if path.is_file() and path.parent.name != "bad"]
    found = [data for path in paths if (data := path.read_bytes()).startswith(pngs.SIGNATURE)]
    for path in sorted((folder / "nih").glob("*.tar.gz")):
        with tarfile.open(path) as tar:
            found += [file.read() for entry in tar if entry.name.endswith(".png") and (file := tar.extractfile(entry))]
    return found


def test_pixels_in_many_small_chunks_and_chunks_without_effect_do_not_change_the_decoder():
    harmless = {
        b"gAMA": struct.pack(">I", 22_727),
        b"pHYs": struct.pack(">IIB", 7000, 7000, 1),
        b"tIME": struct.pack(">HBBBBB", 2020, 1, 2, 3, 4, 5),
        b"tEXt": b"Comment\0x",
        b"zTXt": b"Comment\0\0" + zlib.compress(b"x"),
        b"iCCP": b"broken\0\0" + zlib.compress(b"no profile"),
        b"sBIT": b"\x08",
    }
    for kind, content in harmless.items():
        data = written(GREY, 0, 8, extra=chunk(kind, content), idat_bytes=50)
        assert same(by_rust(data), GREY[..., 0]), kind
        assert same(by_opencv(data), GREY[..., 0]), kind


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"tRNS", b"\0\5"),
        chunk(b"acTL", struct.pack(">II", 2, 0)),
        chunk(b"PLTE", b"abc"),
        chunk(b"prIv", b"unknown"),
    ],
    ids=["transparent", "animated", "palette", "private"],
)
def test_a_chunk_that_may_change_pixels_sends_the_file_to_opencv(extra):
    data = written(GREY, 0, 8, extra=extra)
    assert by_rust(data) is None
    assert same(rasters.stored(data, "a.png"), by_opencv(data))


# --- Equal refusals ---


def spoiled() -> dict[str, bytes]:
    """PNGs whose chunks have right lengths and checksums, and whose content is wrong."""
    raw = pngs.scanlines(GREY, 8, (0, 1, 2, 3, 4))
    packed = zlib.compress(raw)
    head, end = pngs.header(40, 30, 0, 8), chunk(b"IEND", b"")
    streams = {
        "cut in the deflated data": packed[:-30],
        "a row too few": zlib.compress(raw[:-31]),
        "a byte too few": zlib.compress(raw[:-1]),
        "a filter that does not exist": zlib.compress(b"\x07" + raw[1:]),
        "no deflated data": b"junk" * 99,
        "a preset dictionary": b"\x78\xbb" + packed[2:],
    }
    files = {name: head + chunk(b"IDAT", stream) + end for name, stream in streams.items()}
    halves = chunk(b"IDAT", packed[:99]) + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", packed[99:])
    return files | {
        "another chunk amid the pixels": head + halves + end,
        "no pixels": head + end,
        "a critical chunk that is unknown": head + chunk(b"ABCD", b"x") + chunk(b"IDAT", packed) + end,
        "a chunk of a forbidden name": head + chunk(b"a1\xff ", b"x") + chunk(b"IDAT", packed) + end,
        "two headers": head + head[8:] + chunk(b"IDAT", packed) + end,
        "a depth that does not exist": pngs.header(40, 30, 0, 3) + chunk(b"IDAT", packed) + end,
        "a colour type that does not exist": pngs.header(40, 30, 5, 8) + chunk(b"IDAT", packed) + end,
        "a compression that does not exist": head.replace(head[8:33], chunk(b"IHDR", head[16:26] + b"\1\0\0"))
        + chunk(b"IDAT", packed)
        + end,
    }


@pytest.mark.parametrize("name", spoiled())
def test_what_opencv_refuses_is_corrupt(name, capfd):
    data = spoiled()[name]
    assert by_rust(data) is None
    assert by_opencv(data) is None
    assert reason(data) == "corrupt"


def test_the_checksum_of_the_pixels_is_not_checked_where_those_of_the_chunks_hold():
    """The one difference: no damage on the way makes such a file. OpenCV alone would refuse it."""
    data = png(GREY[..., 0])
    at = data.index(b"IDAT")
    packed = data[at + 4 :][: struct.unpack(">I", data[at - 4 : at])[0]]
    for stream in (packed[:-1] + bytes([packed[-1] ^ 1]), packed[:-4]):
        wrong = pngs.header(40, 30, 0, 8) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
        assert same(rasters.stored(wrong, "a.png"), GREY[..., 0])


def test_a_bomb_in_a_chunk_beside_the_pixels_does_no_harm():
    bomb = zlib.compress(bytes(1 << 26))
    for kind in (b"zTXt", b"iCCP"):
        data = written(GREY, 0, 8, extra=chunk(kind, b"a\0\0" + bomb))
        assert same(rasters.stored(data, "a.png"), GREY[..., 0])


def test_pixels_that_inflate_to_more_than_the_header_says_end_where_the_image_ends():
    raw = pngs.scanlines(GREY, 8, (0,)) + bytes(1 << 26)
    data = pngs.header(40, 30, 0, 8) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    assert same(rasters.stored(data, "a.png"), GREY[..., 0])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the reason of the panic
def test_a_panic_of_the_rust_decoder_leaves_the_file_to_opencv(capfd):
    """A real panic: the allocation of its result fails."""
    data = png(GREY[..., 0])
    facts = png_format.check(data, "a.png")
    assert png_format.decode(data, facts._replace(rows_px=1 << 30, columns_px=1 << 30)) is None
    assert "panicked" in capfd.readouterr().err
