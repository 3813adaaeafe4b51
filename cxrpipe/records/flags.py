"""The flags of a study: the words of the column `flags`, in one table. A flag changes no number."""

from typing import NamedTuple


class Flag(NamedTuple):
    meaning: str
    what_to_do: str


FLAGS: dict[str, Flag] = {
    "few_bits_used": Flag(
        "a 16-bit file never uses its highest bit, and was scored as stored, dark as it may be",
        "look at a few with cxrpipe show; if films are too dark, export them "
        "with their real bit depth (the sBIT chunk of PNG, or Bits Stored of DICOM)",
    ),
    "header_mended": Flag(
        "High Bit, Bits Stored or the photometric interpretation was missing, or contradicted the pixels; "
        "the pixels decided",
        "look at a few: the contrast should be right",
    ),
    "display_element_ignored": Flag(
        "a LUT, a window or a rescale that cannot be meant was ignored: slope 0, too few entries, width 0, "
        "or a window that leaves nothing to see",
        "look at a few: the contrast should be right",
    ),
    "body_part_unclear": Flag(
        "the header names a body part that is not known here; the study was scored", "look at it: it may be no chest"
    ),
    "inverted_suspect": Flag(
        "the spine is darker than the fields of both lungs: the film may be inverted",
        "look at it; correct the photometric interpretation at the source",
    ),
    "lungs_cropped": Flag(
        "lung fills more than 3% of the border of the image: part of a lung may lie outside",
        "look at it; the numbers hold for what is in the picture",
    ),
    "ood": Flag(
        "most members whose cards carry an embedding find the study unlike their training data",
        "trust the numbers less; compare says whether the share grows",
    ),
}
