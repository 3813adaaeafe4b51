"""Every transfer syntax gives the values that were encoded, and those that a second decoder gives."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import imagecodecs
import libjpeg
import numpy as np
import pydicom
import pydicom.uid
import pytest
from builders import reason
from dicoms import dataset, dicom, encapsulated, saved
from PIL import Image

from cxrpipe.errors import StudyError
from cxrpipe.images import dicom as ours
from cxrpipe.images import radiographs
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.letterbox import Preparation
from cxrpipe.images.squares import decode_view


def film(bits: int, *, signed: bool = False, rows: int = 67, columns: int = 45) -> np.ndarray:
    """(rows, columns) of smooth values with noise, which use all of `bits`."""
    rng = np.random.default_rng(bits)
    smooth = cv2.resize(rng.random((5, 4)), (columns, rows), interpolation=cv2.INTER_CUBIC)
    values = np.rint((smooth + rng.normal(0, 0.01, smooth.shape)).clip(0, 1) * (2**bits - 1)).astype(np.int32)
    values[0, 0], values[-1, -1] = 0, 2**bits - 1
    depth = 8 if bits <= 8 else 16
    return (values - 2 ** (bits - 1)).astype(f"i{depth // 8}") if signed else values.astype(f"u{depth // 8}")


def stored(data: bytes) -> np.ndarray:
    """(H, W) stored values, as cxrpipe decodes them."""
    parsed, cut_in = ours.parse(data, "film")
    ours.check_whole(parsed, cut_in, "film")
    return ours.image_of(parsed, ours.header_of(parsed, "film"), "film").stored


def words(values: np.ndarray, bits: int) -> np.ndarray:
    """Values as codecs without a sign take them: two's complement in the lowest bits."""
    return values.view(f"u{values.itemsize}") & (2**bits - 1)


# ---- Lossless ---------------------------------------------------------------------------------------------------


class Codec(NamedTuple):
    syntax: str
    encode: Callable[[np.ndarray, int], bytes]
    """(values, bits) → a frame."""
    second: Callable[[bytes], np.ndarray]
    """A frame → words or values, by an implementation that cxrpipe does not use."""
    knows_signs: bool = False


def jpeg_lossless(predictor: int) -> Callable[[np.ndarray, int], bytes]:
    return lambda values, bits: imagecodecs.jpeg8_encode(
        words(values, bits), lossless=True, predictor=predictor, bitspersample=bits
    )


def jpeg_ls(values: np.ndarray, bits: int) -> bytes:
    """The encoder takes the depth from the largest value."""
    return imagecodecs.jpegls_encode(words(values, bits))


def jpeg_2000(values: np.ndarray, bits: int) -> bytes:
    return imagecodecs.jpeg2k_encode(values, 0, codecformat="J2K", bitspersample=bits, reversible=True)


def jp2(values: np.ndarray, bits: int) -> bytes:
    return imagecodecs.jpeg2k_encode(values, 0, codecformat="JP2", bitspersample=bits, reversible=True)


def high_throughput(values: np.ndarray, bits: int) -> bytes:
    """The encoder declares 8 or 16 bits."""
    return imagecodecs.htj2k_encode(values, reversible=True)


def openjpeg_of_pillow(frame: bytes) -> np.ndarray:
    """Unsigned words only. Pillow scales them up to 8 or 16 bits, and takes 9 bits in a JP2 for 8."""
    codestream = frame[frame.index(b"\xff\x4f\xff\x51") :]
    depth = 1 + (codestream[42] & 0x7F)
    return np.asarray(Image.open(io.BytesIO(codestream))) >> ((8 if depth <= 8 else 16) - depth)


LOSSLESS = {
    **{
        f"JPEG lossless, predictor {predictor}": Codec(
            pydicom.uid.JPEGLossless if predictor > 1 else pydicom.uid.JPEGLosslessSV1,
            jpeg_lossless(predictor),
            imagecodecs.ljpeg_decode if predictor == 1 else libjpeg.decode,
        )
        for predictor in (1, 2, 4, 6, 7)
    },
    "JPEG-LS": Codec(pydicom.uid.JPEGLSLossless, jpeg_ls, libjpeg.decode),
    "JPEG 2000": Codec(pydicom.uid.JPEG2000Lossless, jpeg_2000, openjpeg_of_pillow, knows_signs=True),
    "JP2": Codec(pydicom.uid.JPEG2000, jp2, openjpeg_of_pillow, knows_signs=True),
    "HTJ2K": Codec(pydicom.uid.HTJ2KLossless, high_throughput, imagecodecs.htj2k_decode, knows_signs=True),
}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [6, 7, *range(8, 17)])
@pytest.mark.parametrize("name", LOSSLESS)
def test_a_lossless_frame_gives_the_values_that_were_encoded(name, bits, signed):
    codec, values = LOSSLESS[name], film(bits, signed=signed)
    frame = codec.encode(values, bits)
    assert np.array_equal(stored(encapsulated(frame, codec.syntax, values, bits=bits)), values)
    if not signed:
        assert np.array_equal(codec.second(frame), values)


def test_lossless_jpeg_with_a_point_transform_is_shifted_up():
    """No encoder here writes one (ITU T.81, H.1.2.1), so a frame of 10 bits is made to claim 12 less two."""
    values = film(10)
    frame = bytearray(imagecodecs.jpeg8_encode(values, lossless=True, predictor=1, bitspersample=10))
    frame[frame.index(b"\xff\xc3") + 4] = 12
    frame[frame.index(b"\xff\xda") + 9] |= 2
    data = encapsulated(bytes(frame), pydicom.uid.JPEGLosslessSV1, values << 2, bits=12)
    assert np.array_equal(stored(data), values << 2)


@pytest.mark.parametrize("kind", ["unsigned", "signed"])
@pytest.mark.parametrize("bits", range(8, 17))
def test_rle_gives_the_values_that_were_encoded(bits, kind):
    values = film(bits, signed=kind == "signed")
    made = dataset(values, bits=bits)
    made.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    assert np.array_equal(stored(saved(made)), values)


@pytest.mark.parametrize("padding", [b"", b"\0", b"\0" * 9, b"\0" * 200])
def test_a_frame_of_rle_may_be_padded(padding):
    values = film(12)
    made = dataset(values, bits=12)
    made.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    frame = pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1)
    assert np.array_equal(stored(encapsulated(frame + padding, pydicom.uid.RLELossless, values, bits=12)), values)


def test_a_frame_of_rle_of_another_length_or_without_a_segment_is_corrupt():
    values = film(12)
    made = dataset(values, bits=12)
    made.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    frame = pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1)
    cut, long = (frame[:-100], frame[:50], b"\0\0"), (frame + b"\xf0\x07", frame + b"\0" * 5000)
    for broken in (*cut, *long, b"\1" + frame[1:], b"\xff" + frame[1:]):
        assert reason(encapsulated(broken, pydicom.uid.RLELossless, values, bits=12)) == "corrupt"


@pytest.mark.parametrize("bits", [8, 12])
def test_big_endian_pixels_are_read(bits):
    values = film(bits, rows=64, columns=45)
    swapped = values.byteswap() if bits > 8 else values.reshape(-1, 2)[:, ::-1].reshape(values.shape)
    made = dataset(swapped, bits=bits, syntax=pydicom.uid.ExplicitVRBigEndian)
    made[0x7FE00010].VR = "OW"
    assert np.array_equal(stored(saved(made)), values)


# ---- Lossy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "level"), [(8, 90), (12, 95)])
def test_lossy_jpeg_is_what_a_second_decoder_gives(bits, level):
    """The inverse cosine transform may round differently."""
    values = film(bits)
    frame = imagecodecs.jpeg8_encode(values, level, bitspersample=bits)
    syntax = pydicom.uid.JPEGBaseline8Bit if bits == 8 else pydicom.uid.JPEGExtended12Bit
    decoded = stored(encapsulated(frame, syntax, values, bits=bits)).astype(int)
    assert np.abs(decoded - libjpeg.decode(frame)).max() <= 1
    assert np.abs(decoded - values).mean() < 2 ** (bits - 8) * 4


@pytest.mark.parametrize("level", [1, 4])
def test_near_lossless_jpeg_ls_is_what_a_second_decoder_gives(level):
    values = film(12)
    frame = imagecodecs.jpegls_encode(values, level)
    decoded = stored(encapsulated(frame, pydicom.uid.JPEGLSNearLossless, values, bits=12))
    assert np.array_equal(decoded, libjpeg.decode(frame))
    assert 0 < np.abs(decoded.astype(int) - values).max() <= level


@pytest.mark.parametrize("encode", ["jpeg2k", "htj2k"])
def test_lossy_jpeg_2000_is_what_a_second_decoder_gives(encode):
    values = film(16, rows=200, columns=180) // 2 + 16_000  # OpenJPH wraps values that leave the range
    if encode == "jpeg2k":
        frame = imagecodecs.jpeg2k_encode(values, 60, codecformat="J2K", bitspersample=16, reversible=False)
        syntax, second = pydicom.uid.JPEG2000, openjpeg_of_pillow(frame)
    else:
        frame = imagecodecs.htj2k_encode(values, 0.0005, reversible=False)
        syntax, second = pydicom.uid.HTJ2K, imagecodecs.htj2k_decode(frame)
    decoded = stored(encapsulated(frame, syntax, values, bits=16)).astype(int)
    assert np.abs(decoded - second).max() <= 1
    assert 0 < np.abs(decoded - values).mean() < 200


# ---- What the header says otherwise -----------------------------------------------------------------------------


@pytest.mark.parametrize("declares_sign", [False, True])
def test_the_header_decides_whether_jpeg_2000_has_a_sign(declares_sign):
    """Some encoders store two's complement as if it had none, as pydicom knows, too."""
    values = film(12, signed=True)
    frame = jpeg_2000(values if declares_sign else words(values, 12), 12)
    assert np.array_equal(stored(encapsulated(frame, pydicom.uid.JPEG2000Lossless, values, bits=12)), values)
    unsigned = stored(encapsulated(frame, pydicom.uid.JPEG2000Lossless, words(values, 12), bits=12))
    assert np.array_equal(unsigned, words(values, 12))


@pytest.mark.parametrize("codec", ["JPEG lossless, predictor 1", "JPEG 2000"])
def test_signs_are_found_in_words_that_are_wider_than_the_values(codec):
    """12 bits stored in a frame of 16, with or without the sign in the upper four."""
    values = film(12, signed=True)
    encode, syntax = LOSSLESS[codec].encode, LOSSLESS[codec].syntax
    for frame in (encode(values, 16), encode(words(values, 12), 16)):
        assert np.array_equal(stored(encapsulated(frame, syntax, values, bits=12)), values)


@pytest.mark.parametrize("declared", ["JPEG lossless, predictor 1", "JPEG-LS", "JPEG 2000"])
@pytest.mark.parametrize("encoded", ["JPEG lossless, predictor 1", "JPEG-LS", "JPEG 2000"])
def test_the_frame_decides_where_another_transfer_syntax_is_declared(declared, encoded):
    values = film(12)
    frame = LOSSLESS[encoded].encode(values, 12)
    assert np.array_equal(stored(encapsulated(frame, LOSSLESS[declared].syntax, values, bits=12)), values)


def test_a_frame_of_three_colours_is_no_radiograph():
    colours = np.dstack([film(8)] * 3)
    for syntax, frame in (
        (pydicom.uid.JPEGBaseline8Bit, imagecodecs.jpeg8_encode(colours)),
        (pydicom.uid.JPEGLSLossless, imagecodecs.jpegls_encode(colours)),
        (pydicom.uid.JPEG2000Lossless, imagecodecs.jpeg2k_encode(colours, codecformat="J2K")),
    ):
        assert reason(encapsulated(frame, syntax, film(8), WindowCenter=128, WindowWidth=256)) == "corrupt"


def test_a_frame_of_more_than_16_bits_is_corrupt():
    values = np.arange(64 * 64, dtype=np.uint32).reshape(64, 64) << 6
    frame = imagecodecs.jpeg2k_encode(values, 0, codecformat="J2K", bitspersample=18, reversible=True)
    data = encapsulated(frame, pydicom.uid.JPEG2000Lossless, values.astype(np.uint16), bits=16)
    with pytest.raises(StudyError, match="18 bits a sample; expected at most 16"):
        stored(data)


# ---- Broken frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["JPEG-LS", "JPEG 2000", "HTJ2K"])
def test_a_frame_with_a_hole_is_corrupt(name):
    """Its markers are whole. OpenJPH gives a film for such an HTJ2K, and libjpeg for such a JPEG-LS."""
    codec, values = LOSSLESS[name], film(12, rows=200, columns=180)
    frame = codec.encode(values, 12)
    for start in np.linspace(len(frame) // 3, len(frame) - 300, 8, dtype=int):
        broken = encapsulated(frame[:start] + frame[start + 40 :], codec.syntax, values, bits=12)
        assert reason(broken) in ("corrupt", "truncated")


# ---- Behind the wall --------------------------------------------------------------------------------------------


def test_every_codec_works_behind_the_wall():
    wanted = [Preparation("voi", 32)]
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    values = film(12, rows=150, columns=140)
    made = dataset(values, bits=12, **window)
    made.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    files = [
        saved(made),
        dicom(values, bits=12, **window),
        *(
            encapsulated(codec.encode(values, 12), codec.syntax, values, bits=12, **window)
            for codec in LOSSLESS.values()
        ),
    ]
    with Isolated(decode_view, timeout_s=60) as isolated:
        for data in files:
            here = decode_view(data, "film", wanted)
            assert np.array_equal(isolated(data, "film", wanted).squares[wanted[0]], here.squares[wanted[0]])


# ---- Real files -------------------------------------------------------------------------------------------------


def frame_of(path: Path) -> bytes:
    return pydicom.encaps.get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("RG1_JLSN", libjpeg.decode),
        ("RG1_J2KI", openjpeg_of_pillow),
        ("RG3_RLE", None),
        ("Fake_MONOHR1.dcm", libjpeg.decode),
    ],
)
def test_a_real_frame_is_what_a_second_decoder_gives(real_data: Path, name: str, second: Callable | None):
    path = real_data / "dicom" / name
    decoded = stored(path.read_bytes()).astype(int)
    other = pydicom.dcmread(path).pixel_array if second is None else second(frame_of(path))
    assert np.abs(decoded - other).max() <= (1 if name.startswith("Fake") else 0)


def test_real_jpeg_of_12_bits_is_read_though_its_scan_header_breaks_the_standard(real_data: Path):
    """RG3_JPLY: the spectral selection ends at 0 and not at 63, which only matters to progressive JPEG. With 63 in its
    place a second decoder agrees. RG3_RLE is the film before it was compressed."""
    data = (real_data / "dicom" / "RG3_JPLY").read_bytes()
    decoded = stored(data).astype(int)
    frame = bytearray(frame_of(real_data / "dicom" / "RG3_JPLY"))
    scan = frame.index(b"\xff\xda")
    assert frame[scan + 7 : scan + 10] == b"\0\0\0"
    frame[scan + 8] = 63
    assert np.abs(decoded - libjpeg.decode(bytes(frame))).max() <= 1
    assert np.abs(decoded - stored((real_data / "dicom" / "RG3_RLE").read_bytes())).mean() < 2  # of 1023
    shown = radiographs.decode(data.replace(b"EXTREMITY ", b"CHEST     "), "voi")
    assert shown.pixels.std() > 10
    assert shown.flags == ("header_mended",)  # some values are 1024, which takes eleven bits
