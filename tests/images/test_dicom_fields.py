"""DICOM headers that contradict their pixels, or lack what they must say: the picture is that of the right file."""

from pathlib import Path

import cv2
import numpy as np
import pydicom
import pydicom.uid
import pytest
from builders import pixels, reason
from dicoms import dataset, dicom, lut, saved

from cxrpipe.images import radiographs
from cxrpipe.images.dicom import header_of
from cxrpipe.images.dicom.body_part import verdict

FILM = cv2.resize(
    np.random.default_rng(4).integers(0, 4096, (5, 4)).astype(np.float32), (80, 96), interpolation=cv2.INTER_LINEAR
).astype(np.uint16)  # (96, 80), 12 bits, smooth as a film is
WINDOW = {"WindowCenter": "2048", "WindowWidth": "4096"}
RIGHT = pixels(dicom(FILM, bits=12, **WINDOW))


def flags(data: bytes) -> tuple[str, ...]:
    return radiographs.decode(data, "voi").flags


def with_text(data: bytes, keyword: str, old: str, new: str) -> bytes:
    """The file with another text in an element, of the same length: what pydicom would refuse to write."""
    assert len(old) == len(new)
    tag = pydicom.tag.Tag(keyword)
    place = data.index(tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little"))
    value = data.index(old.encode(), place)
    return data[:value] + new.encode("latin-1") + data[value + len(old) :]


def test_the_right_file_is_what_pydicom_shows_and_has_no_flag():
    made = dataset(FILM, bits=12, **WINDOW)
    shown = pydicom.pixels.processing.apply_voi(pydicom.dcmread(_file(made)).pixel_array, made)
    assert np.abs(RIGHT - shown / 4095 * 255).max() <= 1
    assert flags(saved(made)) == ()


def _file(made: pydicom.Dataset) -> "pydicom.filebase.DicomBytesIO":
    return pydicom.filebase.DicomBytesIO(saved(made))


# --- Bits ---


def test_values_in_the_lowest_bits_are_found_where_high_bit_says_others():
    data = dicom(FILM, bits=12, HighBit=15, **WINDOW)
    assert np.array_equal(pixels(data), RIGHT)
    assert flags(data) == ("header_mended",)


def test_values_in_the_upper_bits_are_taken_from_there_as_the_header_says():
    data = dicom(FILM << 4, bits=12, HighBit=15, **WINDOW)
    assert np.array_equal(pixels(data), RIGHT)
    assert flags(data) == ()


def test_a_dark_film_in_the_upper_bits_is_not_taken_for_one_in_the_lowest():
    dark = FILM // 40
    assert np.array_equal(
        pixels(dicom(dark << 4, bits=12, HighBit=15, **WINDOW)), pixels(dicom(dark, bits=12, **WINDOW))
    )


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_signed_values_in_the_lowest_bits_are_found_too(bits):
    signed = ((FILM >> (12 - bits) if bits < 12 else FILM << (bits - 12)).astype(np.int32) - 2 ** (bits - 1)).astype(
        np.int16
    )
    assert np.array_equal(pixels(dicom(signed, bits=bits, HighBit=15)), pixels(dicom(signed, bits=bits)))


@pytest.mark.parametrize(
    ("tags", "mended"),
    [
        ({"HighBit": None}, False),
        ({"HighBit": 3}, True),
        ({"HighBit": 16}, True),
        ({"HighBit": 255}, True),
        ({"BitsStored": None}, True),
        ({"BitsStored": 0}, True),
        ({"BitsStored": 17}, True),
        ({"BitsStored": None, "HighBit": None}, True),
        ({"BitsAllocated": None}, False),
        ({"BitsStored": 10, "HighBit": 9}, True),  # the values wrap around, if they are believed
        ({"BitsStored": 8, "HighBit": 7}, True),
        ({"BitsStored": 16, "HighBit": 11}, True),
        ({"BitsStored": 16, "HighBit": 15}, False),
        ({"SamplesPerPixel": None}, False),
        ({"SamplesPerPixel": 0}, False),
        ({"PixelRepresentation": None}, False),
        ({"PixelRepresentation": 7}, False),
        ({"PhotometricInterpretation": None}, True),
        ({"PhotometricInterpretation": "MONOCHROME"}, True),
        ({"PhotometricInterpretation": "MONOCHROME 2"}, False),
        ({"NumberOfFrames": 0}, False),
        ({"SmallestImagePixelValue": 9000, "LargestImagePixelValue": 1}, False),
    ],
)
@pytest.mark.parametrize("syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian])
def test_what_cannot_be_meant_or_is_missing_follows_from_the_rest(tags, mended, syntax):
    data = dicom(FILM, bits=12, syntax=syntax, **(WINDOW | tags))
    assert np.array_equal(pixels(data), RIGHT)
    assert ("header_mended" in flags(data)) == mended


@pytest.mark.parametrize("syntax", [pydicom.uid.RLELossless, pydicom.uid.JPEG2000Lossless])
@pytest.mark.parametrize(
    "tags",
    [{"SamplesPerPixel": None}, {"HighBit": 15}, {"BitsStored": 10, "HighBit": 9}, {"PixelRepresentation": None}],
)
def test_so_does_that_of_an_encoded_image(syntax, tags):
    made = dataset(FILM, bits=12, **WINDOW)
    made.compress(syntax, generate_instance_uid=False)
    for keyword, value in tags.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    assert np.array_equal(pixels(saved(made)), RIGHT)


def test_an_overlay_in_the_upper_bits_is_no_part_of_the_values():
    drawn = FILM.copy()
    drawn[10:60, 20:40] |= 0xF000
    assert np.array_equal(pixels(dicom(drawn, bits=12, **WINDOW)), RIGHT)


@pytest.mark.parametrize(("old", "new"), [("1 ", "1."), ("01", "1,"), ("01", "  "), ("01", "xy"), ("01", "-1")])
def test_a_number_of_frames_that_is_no_plain_integer_is_one(old, new):
    data = dicom(FILM, bits=12, NumberOfFrames="01", **WINDOW)
    assert np.array_equal(pixels(with_text(data, "NumberOfFrames", "01", new)), RIGHT)


def test_a_number_of_frames_of_1_0_is_one():
    data = with_text(dicom(FILM, bits=12, NumberOfFrames="0001", **WINDOW), "NumberOfFrames", "0001", "1.0 ")
    assert np.array_equal(pixels(data), RIGHT)


@pytest.mark.parametrize("text", ["monochrome2 ", "MonoChrome2 ", " MONOCHROME2", "MONOCHROME 2"])
def test_capitals_and_spaces_of_the_photometric_interpretation_do_not_matter(text):
    data = dicom(FILM, bits=12, PhotometricInterpretation="MONOCHROME2 ", **WINDOW)
    assert np.array_equal(pixels(with_text(data, "PhotometricInterpretation", "MONOCHROME2 ", text)), RIGHT)


def test_colours_are_refused_though_the_header_does_not_name_them():
    colours = dicom(np.dstack([RIGHT] * 3), PhotometricInterpretation=None, SamplesPerPixel=3)
    assert reason(colours) == "not_chest"
    assert reason(dicom(np.dstack([RIGHT] * 3), SamplesPerPixel=None)) == "corrupt"


def test_a_pixel_spacing_that_is_none_does_not_cost_the_image():
    data = dicom(FILM, bits=12, PixelSpacing=["0.14", "0.14"], **WINDOW)
    broken = with_text(data, "PixelSpacing", "0.14\\0.14", "0.1mm\\abc")
    assert np.array_equal(pixels(broken), RIGHT)
    assert header_of(pydicom.dcmread(pydicom.filebase.DicomBytesIO(broken)), "s").pixel_spacing_mm is None


# --- Padding ---


def padded(value: int, values: np.ndarray) -> np.ndarray:
    """With a border of `value`."""
    return np.pad(values, 8, constant_values=value)


@pytest.mark.parametrize("written", [63536, -2000])
@pytest.mark.parametrize("signed", [True, False])
def test_padding_is_known_with_or_without_its_sign(written, signed):
    """-2000 is 63536 in 16 bits; neither Pixel Representation nor the VR can be relied on."""
    values = padded(-2000 if signed else 63536, FILM.astype(np.int16 if signed else np.uint16))
    made = dataset(values, bits=16)
    made.add_new(0x0028_0120, "SS" if written < 0 else "US", written)
    assert np.array_equal(pixels(saved(made))[8:-8, 8:-8], pixels(dicom(FILM, bits=16)))


def test_padding_and_tables_are_read_though_nothing_says_whether_values_have_a_sign():
    """Implicit VR: pydicom gives US or SS for their VR."""
    values, table = padded(60_000, FILM), lut(np.arange(4096)[::-1])
    padding = dicom(values, bits=16, PixelPaddingValue=60_000, syntax=pydicom.uid.ImplicitVRLittleEndian)
    window = dicom(FILM, bits=12, VOILUTSequence=[table], syntax=pydicom.uid.ImplicitVRLittleEndian)
    padding, window = (data.replace(b"\x28\0\3\1", b"\x28\0\4\1", 1) for data in (padding, window))
    assert np.array_equal(pixels(padding)[8:-8, 8:-8], pixels(dicom(FILM, bits=16)))
    assert np.array_equal(pixels(window), pixels(dicom(FILM, bits=12, VOILUTSequence=[table])))


def test_padding_outside_of_the_stored_bits_is_padding_still():
    values = padded(0xFFFF, FILM)
    shown = pixels(dicom(values, bits=12, PixelPaddingValue=0xFFFF))
    assert np.abs(shown[8:-8, 8:-8].astype(int) - pixels(dicom(FILM, bits=12))).max() <= 1


@pytest.mark.parametrize("ends", [(60_000, 60_010), (60_010, 60_000)])
def test_a_range_of_padding_counts_with_both_ends_in_any_order(ends):
    values = padded(60_000, FILM)
    values[:4], values[-4:] = 60_010, 60_005
    data = dicom(values, bits=16, PixelPaddingValue=ends[0], PixelPaddingRangeLimit=ends[1])
    assert np.array_equal(pixels(data)[8:-8, 8:-8], pixels(dicom(FILM, bits=16)))


# --- What is optional never costs the image ---

EMPTY = pydicom.Dataset()
EMPTY.add_new(0x0028_3002, "US", None)
EMPTY.add_new(0x0028_3006, "OW", None)
SHORT = lut(np.arange(100))
SHORT.LUTDescriptor = [4096, 0, 16]
FLAT = lut(np.full(4096, 7))


@pytest.mark.parametrize(
    "item", [EMPTY, SHORT, FLAT, pydicom.Dataset()], ids=["empty elements", "too short", "flat", "nothing"]
)
@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_table_that_cannot_be_is_ignored_and_the_window_is_used(sequence, item):
    data = dicom(FILM, bits=12, **WINDOW, **{sequence: [item]})
    assert np.array_equal(pixels(data), RIGHT)
    assert flags(data) == ("display_element_ignored",)


def test_the_second_table_is_used_where_the_first_cannot_be():
    table = lut(np.arange(4096)[::-1])
    one, both = (dicom(FILM, bits=12, VOILUTSequence=items) for items in ([table], [SHORT, table]))
    assert np.array_equal(pixels(one), pixels(both))


def test_an_empty_sequence_or_window_says_nothing():
    data = dicom(FILM, bits=12, VOILUTSequence=[], ModalityLUTSequence=[], WindowCenter="", WindowWidth="")
    assert np.array_equal(pixels(data), pixels(dicom(FILM, bits=12)))
    assert flags(data) == ()


@pytest.mark.parametrize(
    ("center", "width", "flagged"),
    [
        ("2048,0", "4096.0", False),
        ("2048,0", "4096,0", False),
        ("2048\\9", "4096\\9", False),
        ("2,048 ", "4,096 ", True),  # two thousand, or two and a bit: not guessed
        ("abc   ", "4096  ", True),
        ("2048  ", "0     ", True),
        ("2048  ", "-4096 ", True),
        ("2048  ", "nan   ", True),
        ("      ", "4096  ", True),
        ("9e6   ", "10    ", True),  # all of the image would be black
        ("-999  ", "10    ", True),  # all white
    ],
)
def test_a_window_that_cannot_be_is_ignored(center, width, flagged):
    whole = {"WindowCenter": "123456", "WindowWidth": "654321"}
    data = with_text(dicom(FILM, bits=12, **whole), "WindowCenter", "123456", center.ljust(6))
    data = with_text(data, "WindowWidth", "654321", width.ljust(6))
    expected = pixels(dicom(FILM, bits=12)) if flagged else RIGHT
    assert np.array_equal(pixels(data), expected)
    assert flags(data) == (("display_element_ignored",) if flagged else ())


def test_the_second_window_is_used_where_the_first_cannot_be():
    data = dicom(FILM, bits=12, WindowCenter=["0", "2048"], WindowWidth=["0", "4096"])
    assert np.array_equal(pixels(data), RIGHT)


def test_an_image_without_contrast_stays_blank_whatever_its_window():
    """The noise of an exposure without a patient is not stretched over the whole range."""
    noise = np.random.default_rng(0).integers(0, 4, (40, 40)).astype(np.uint16)
    assert radiographs.is_blank(pixels(dicom(noise, bits=12, **WINDOW)))


@pytest.mark.parametrize("function", ["UNKNOWN", "linear ", "LINEAR ", "       "])
def test_a_function_that_nobody_knows_is_linear(function):
    data = with_text(dicom(FILM, bits=12, VOILUTFunction="SIGMOID", **WINDOW), "VOILUTFunction", "SIGMOID", function)
    assert np.array_equal(pixels(data), RIGHT)


@pytest.mark.parametrize("slope", ["0    ", "0.0  ", "nan  ", "abc  ", "inf  ", "1,2,3"])
def test_a_slope_that_cannot_be_leaves_the_values_as_they_are(slope):
    data = dicom(FILM, bits=12, RescaleSlope="12345", RescaleIntercept="-1000", **WINDOW)
    data = with_text(data, "RescaleSlope", "12345", slope)
    assert np.array_equal(pixels(data), RIGHT)
    assert flags(data) == ("display_element_ignored",)


def test_a_slope_with_a_decimal_comma_is_a_slope():
    comma = with_text(dicom(FILM, bits=12, RescaleSlope="2.50", **WINDOW), "RescaleSlope", "2.50", "2,50")
    assert np.array_equal(pixels(comma), pixels(dicom(FILM, bits=12, RescaleSlope="2.5", **WINDOW)))


# --- Frames ---


@pytest.mark.parametrize("padding", [b"", b"\xff\xff", b"\0\0\0\0", b"\xff\xd9\xff\xff", b" junk "])
@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("fragments", [1, 3])
def test_a_frame_of_jpeg_2000_may_be_padded_and_lie_in_pieces(padding, table, fragments):
    made = dataset(FILM, bits=12, **WINDOW)
    made.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    frame = pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1)
    made.PixelData = pydicom.encaps.encapsulate([frame + padding], fragments_per_frame=fragments, has_bot=table)
    assert np.array_equal(pixels(saved(made)), RIGHT)


@pytest.mark.parametrize("padding", [b"", b"\xff\xff", b"\0\0", b" junk "])
@pytest.mark.parametrize("fragments", [1, 2])
def test_so_may_a_frame_of_jpeg(padding, fragments):
    made = dataset(RIGHT, syntax=pydicom.uid.JPEGBaseline8Bit, WindowCenter=128, WindowWidth=256)
    encoded = cv2.imencode(".jpg", RIGHT)[1].tobytes()
    made.PixelData = pydicom.encaps.encapsulate([encoded + padding], fragments_per_frame=fragments)
    expected = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE).astype(float)
    assert np.abs(pixels(saved(made)) - expected).max() <= 1


def jpeg_in_dicom(**tags: object) -> pydicom.Dataset:
    made = dataset(RIGHT, syntax=pydicom.uid.JPEGBaseline8Bit, WindowCenter=128, WindowWidth=256, **tags)
    made.PixelData = pydicom.encaps.encapsulate(
        [cv2.imencode(".jpg", RIGHT, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()]
    )
    return made


@pytest.mark.parametrize("bits", [(16, 12), (16, 8), (16, 16), (8, 7)])
def test_the_bits_of_an_encoded_image_are_those_of_its_frame(bits):
    shown = pixels(saved(jpeg_in_dicom(BitsAllocated=bits[0], BitsStored=bits[1], HighBit=bits[1] - 1)))
    assert np.abs(shown.astype(int) - RIGHT).max() <= 2
    made = dataset(FILM, bits=12, **WINDOW)
    made.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    assert np.array_equal(pixels(saved(made)), RIGHT)


def test_encoded_pixels_are_known_by_their_bytes_where_the_transfer_syntax_is_missing_or_wrong():
    whole = saved(jpeg_in_dicom())
    without = whole[whole.index(b"\x08\0\x16\0") :]
    wrong = whole.replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.1\0\0\0", 1)
    other = whole.replace(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.90", 1)
    assert all(np.array_equal(pixels(data), pixels(whole)) for data in (without, wrong, other))


def test_an_offset_table_that_is_wrong_does_not_matter():
    made = dataset(FILM, bits=12, **WINDOW)
    made.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    wrong = made.PixelData[:8] + (9999).to_bytes(4, "little") + made.PixelData[12:]
    assert made.PixelData[4:8] == b"\4\0\0\0"
    made.PixelData = wrong
    assert np.array_equal(pixels(saved(made)), RIGHT)


def test_a_frame_of_jpeg_2000_that_ends_early_is_truncated_though_padding_follows():
    made = dataset(FILM, bits=12)
    made.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    frame = pydicom.encaps.get_frame(made.PixelData, 0, number_of_frames=1).rstrip(b"\0")
    for cut in (2, 10, 200, len(frame) // 2):
        made.PixelData = pydicom.encaps.encapsulate([frame[:-cut] + b"\xff\xff\0\0"])
        assert reason(saved(made)) == "truncated", cut


@pytest.mark.parametrize("behind", [b"\0\0", b"\0" * 50])
def test_bytes_behind_the_pixels_do_not_matter(behind):
    made = dataset(FILM, bits=12, **WINDOW)
    made.PixelData += behind
    assert np.array_equal(pixels(saved(made)), RIGHT)


# --- Body part ---


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (
            "chest",
            "CHEST|chest|CHEST PA|PORT CHEST|CHESTABDOMEN|THORAX|THORAX AP|TORAX|TÓRAX|T?RAX|T\ufffdRAX|TÃ“RAX|"
            "THORACIC|LUNG|LUNGS|PECHO|RIBS|RIB|R RIBS|DEFAULT|UNKNOWN||CXR|BRUSTKORB|POITRINE|TORACE|HEART|"
            "CAGE THORACIQUE|TO\u0301RAX|胸部",
        ),
        (
            "other",
            "HAND|HANDS|LOW_EXM|UPPER LIMB|ABD|"
            "LEFT HAND|FOOT|KNEE|KNEES|SKULL|ABDOMEN|PELVIS|SPINE|TSPINE|T-SPINE|THORACIC SPINE|LSPINE|HIP|"
            "SHOULDER|CLAVICLE|EXTREMITY|UP_EXM EXTREMITY|ARM|FOREARM|LEG|ANKLE|RODILLA|MANO|COLUMNA DORSAL|"
            "COLUMNA TORACICA|THORACOLUMBAR|BREAST|CSPINE|ELBOW|WRIST|FINGER|TOE|HÜFTE|SCHÄDEL|Épaule",
        ),
        ("unclear", "WHOLEBODY|XYZ|TRUNK|STERNUM|COMPUTED RADIOGRAPHY|WHEELCHAIR"),
    ],
)
def test_a_body_part_says_chest_another_part_or_nothing_that_is_known(expected, words):
    assert {word: verdict(word) for word in words.split("|")} == dict.fromkeys(words.split("|"), expected)


def test_a_body_part_that_is_not_known_is_scored_and_flagged():
    data = dicom(FILM, bits=12, BodyPartExamined="XYZ", **WINDOW)
    assert np.array_equal(pixels(data), RIGHT)
    assert flags(data) == ("body_part_unclear",)


# --- Real files ---


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("high_bit_15.dcm", "header_mended"),
        ("rescale_slope_0.dcm", "display_element_ignored"),
        ("voi_lut_of_empty_elements.dcm", "display_element_ignored"),
        ("window_center_decimal_comma.dcm", None),
        ("no_samples_per_pixel.dcm", None),
    ],
)
def test_a_file_of_the_field_is_as_its_right_twin(real_data: Path, name: str, flag: str | None):
    folder = real_data / "field" / "pixels"
    if not folder.exists():
        pytest.skip("real data not found")
    found, right = (radiographs.decode((folder / each).read_bytes(), "voi") for each in (name, "right.dcm"))
    assert np.array_equal(found.pixels, right.pixels)
    assert found.flags == ((flag,) if flag else ())
