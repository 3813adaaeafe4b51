"""DICOM files become the grey values that the standard gives, or a reason."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pydicom.uid
import pytest
from builders import pixels, reason
from dicoms import dataset, dicom, lut, saved

from cxrpipe.images.dicom import begins_as_dicom, grey
from cxrpipe.images.dicom.bits import unpack_bits

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def ramp(bits: int) -> np.ndarray:
    """(64, 64) uint16 with values from 0 to the highest of `bits`."""
    return np.linspace(0, 2**bits - 1, 64 * 64).round().astype(np.uint16).reshape(64, 64)


# --- Pixels, in the standard's order ---


def test_8_bits_over_the_whole_range_stay_as_they_are():
    assert np.array_equal(pixels(dicom(RAMP)), RAMP)


@pytest.mark.parametrize("bits", [10, 12, 14, 15, 16])
def test_without_values_of_interest_the_range_is_that_of_the_image(bits):
    shown = pixels(dicom(ramp(bits), bits=bits))
    assert np.abs(shown - ramp(bits) / (2**bits - 1) * 255).max() <= 0.5


def test_padding_is_not_part_of_that_range():
    values = np.full((20, 20), 60_000, np.uint16)
    values[:10] = np.arange(200).reshape(10, 20)
    shown = pixels(dicom(values, bits=16, PixelPaddingValue=60_000))
    assert shown[:10].min() == 0
    assert shown[:10].max() == 255


def test_monochrome1_is_the_inverse():
    assert np.array_equal(pixels(dicom(RAMP, PhotometricInterpretation="MONOCHROME1")), 255 - RAMP)


def test_a_window_is_applied_before_monochrome1_is_inverted():
    """RadHarmony found 10 of 131 such files wrong when inverted first."""
    window = {"WindowCenter": 1000, "WindowWidth": 400}
    shown = pixels(dicom(ramp(12), bits=12, **window))
    inverse = pixels(dicom(ramp(12), bits=12, PhotometricInterpretation="MONOCHROME1", **window))
    assert shown[ramp(12) <= 799].max() == 0
    assert shown[ramp(12) > 1200].min() == 255
    assert np.abs(shown.astype(int) + inverse - 255).max() <= 1


def test_a_window_is_on_rescaled_values():
    values = ramp(12)
    shown = pixels(dicom(values, bits=12, WindowCenter=0, WindowWidth=801, RescaleSlope=2, RescaleIntercept=-1000))
    expected = np.clip((values * 2.0 - 1000 + 0.5) / 800 + 0.5, 0, 1) * 255
    assert np.abs(shown - expected).max() <= 0.5


def test_windows_agree_with_pydicom():
    values = np.arange(-300, 300, dtype=float)
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        made = dataset(RAMP, WindowCenter=37, WindowWidth=120, VOILUTFunction=function)
        expected = pydicom.pixels.processing.apply_windowing(values, made) / 255
        assert np.allclose(grey.window(values, 37, 120, function), expected, atol=1e-6)


def test_the_first_of_several_windows_counts():
    one = dicom(ramp(12), bits=12, WindowCenter=500, WindowWidth=300)
    several = dicom(ramp(12), bits=12, WindowCenter=[500, 900], WindowWidth=[300, 10])
    assert np.array_equal(pixels(one), pixels(several))


@pytest.mark.parametrize("width", [0, -5])
def test_a_window_without_width_is_none(width):
    assert np.array_equal(pixels(dicom(RAMP, WindowCenter=5, WindowWidth=width)), RAMP)


def test_a_voi_lut_goes_before_a_window_and_is_scaled_by_its_own_output():
    """Its 12 bits are declared as 16: scaled by those, the picture would be nearly black."""
    table = np.arange(4096)[::-1]
    shown = pixels(dicom(ramp(12), bits=12, VOILUTSequence=[lut(table)], WindowCenter=9, WindowWidth=2))
    assert np.abs(shown - (4095 - ramp(12)) / 4095 * 255).max() <= 0.5


def test_what_lies_outside_of_a_lut_has_its_first_or_last_value():
    assert list(grey.look_up(np.array([-5.0, 10, 11, 12, 99]), np.array([7, 8, 9]), 10)) == [7, 7, 8, 9, 9]


def test_a_lut_of_65536_entries_says_0():
    values = ramp(16)
    shown = pixels(dicom(values, bits=16, VOILUTSequence=[lut(np.arange(65536))]))
    assert np.abs(shown - values / 257).max() <= 0.5


def test_a_modality_lut_goes_before_the_window():
    table = np.repeat(np.arange(0, 4096, 16), 1)  # 8 bits → 12 bits
    shown = pixels(dicom(RAMP, ModalityLUTSequence=[lut(table)], WindowCenter=2048, WindowWidth=4096))
    assert np.abs(shown - table[RAMP] / 4095 * 255).max() <= 0.6


def test_signed_values_keep_their_order():
    values = (ramp(12).astype(np.int16) - 2048).astype(np.int16)
    assert np.abs(pixels(dicom(values, bits=12)) - ramp(12) / 4095 * 255).max() <= 0.5


def test_a_missing_high_bit_is_the_lowest_that_fits():
    """5% of CheXpert Plus."""
    assert np.array_equal(pixels(dicom(ramp(12), bits=12, HighBit=None)), pixels(dicom(ramp(12), bits=12)))


def test_values_in_the_upper_bits_are_taken_from_there():
    assert np.array_equal(pixels(dicom(ramp(12) << 4, bits=12, HighBit=15)), pixels(dicom(ramp(12), bits=12)))


def test_what_lies_in_unused_bits_is_dropped():
    """Old overlays (60xx,3000) do."""
    assert np.array_equal(unpack_bits(ramp(12) | 0xF000, 12, 11), ramp(12))
    signed = np.array([-5, 5], np.int16)
    assert list(unpack_bits(signed & 0x0FFF, 12, 11)) == [-5, 5]


@pytest.mark.parametrize("bits", [8, 12])
def test_rle_is_lossless(bits):
    values = RAMP if bits == 8 else ramp(bits)
    made = dataset(values, bits=bits)
    plain = saved(made)
    made.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    assert np.array_equal(pixels(saved(made)), pixels(plain))


@pytest.mark.parametrize("syntax", [pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian])
def test_a_data_set_without_preamble_is_read(syntax):
    file = io.BytesIO()
    made = dataset(RAMP, syntax=syntax)
    made.file_meta.clear()
    implicit = syntax == pydicom.uid.ImplicitVRLittleEndian
    pydicom.dcmwrite(file, made, implicit_vr=implicit, little_endian=True)
    data = file.getvalue()
    assert data[128:132] != b"DICM"
    assert np.array_equal(pixels(data), RAMP)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 300, b"\x08\x00", b"\x89PNG\r\n\x1a\n" * 9, b"8,7,a,b,c,d,e,f,g,h,i,j\n"]
)
def test_other_bytes_do_not_begin_as_dicom(data):
    assert not begins_as_dicom(data)


# --- Bad files ---


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"Modality": "CT"}, "not_chest"),
        ({"Modality": "MR"}, "not_chest"),
        ({"Modality": None}, "picture"),
        ({"BodyPartExamined": "HAND"}, "not_chest"),
        ({"BodyPartExamined": None}, "picture"),
        ({"BodyPartExamined": ""}, "picture"),
        ({"BodyPartExamined": "THORAX AP"}, "picture"),
        ({"NumberOfFrames": 2}, "not_chest"),
        ({"NumberOfFrames": 1}, "picture"),
        ({"PhotometricInterpretation": "RGB"}, "not_chest"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not_chest"),
        ({"Rows": 15}, "too_small"),
        ({"Rows": 60_000, "Columns": 60_000}, "too_large"),
        ({"Rows": 17}, "corrupt"),
        ({"BitsAllocated": 32}, "corrupt"),
        ({"BitsStored": 9}, "picture"),
        ({"BitsStored": None}, "picture"),
    ],
)
def test_a_header_is_judged_before_the_pixels(tags, expected):
    assert reason(dicom(RAMP, **tags)) == expected


def test_an_object_without_pixels_says_so():
    assert reason(dicom(Modality="SR")) == "no_pixel_data"
    assert reason(dicom(RAMP)[:-268]) in ("no_pixel_data", "truncated")


def test_a_file_that_is_cut_is_truncated_wherever_its_pixels_are_cut():
    data = dicom(RAMP)
    assert {reason(data[: -1 - cut]) for cut in range(255)} == {"truncated"}


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.94", "1.2.840.10008.1.2.1.99", "1.2.3.4.5"])
def test_a_transfer_syntax_without_a_decoder_is_named(syntax):
    """JPIP, deflated, and one that nobody knows."""
    made = dataset(RAMP, syntax=pydicom.uid.JPEGBaseline8Bit)
    made.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    baseline = pydicom.uid.JPEGBaseline8Bit.encode()
    assert reason(saved(made)) == "corrupt"
    other = saved(made).replace(baseline, syntax.encode().ljust(len(baseline), b"\0"), 1)
    assert reason(other) == "unsupported_transfer_syntax"


# --- Real files ---


def real(real_data: Path, name: str) -> bytes:
    return (real_data / "dicom" / name).read_bytes()


TWIN = "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RG1_J2KI", "picture"),
        ("RG1_JLSN", "picture"),
        (TWIN, "picture"),
        ("Fake_MONOHR1.dcm", "picture"),
        ("RG3_RLE", "not_chest"),
        ("RG3_JPLY", "not_chest"),
        ("CT1_J2KR", "not_chest"),
    ],
)
def test_each_real_file_is_read_or_refused_for_the_right_reason(real_data, name, expected):
    assert reason(real(real_data, name)) == expected


def test_two_encodings_of_a_real_radiograph_are_the_same_picture(real_data):
    """JPEG 2000 at 10:1 and near-lossless JPEG-LS: 3 of 255 at most, and less than half a grey on the mean."""
    one, other = (pixels(real(real_data, name)).astype(int) for name in ("RG1_J2KI", "RG1_JLSN"))
    assert one.shape == (1955, 1841)
    assert np.abs(one - other).max() <= 3
    assert np.abs(one - other).mean() < 0.5


def test_the_real_monochrome1_file_is_the_inverse_of_its_twin(real_data):
    """Its values end at 254: the one in the middle lies between two grey levels, and becomes the even one in both."""
    one, other = (pixels(real(real_data, name)).astype(int) for name in ("Fake_MONOHR1.dcm", TWIN))
    assert np.array_equal(one + other, np.where(other == 128, 256, 255))


def test_a_real_rle_file_could_be_decoded_if_it_were_a_chest(real_data):
    shown = pixels(real(real_data, "RG3_RLE").replace(b"EXTREMITY ", b"CHEST     "))
    assert shown.shape == (1760, 1760)
    assert shown.std() > 10


@pytest.mark.parametrize("name", ["RG1_J2KI", "RG1_JLSN", TWIN])
def test_a_real_compressed_file_is_truncated_wherever_it_is_cut(real_data, name):
    data = real(real_data, name)
    assert {reason(data[:cut]) for cut in np.linspace(5_000, len(data) - 9, 20, dtype=int)} == {"truncated"}
