"""DICOM: reads the header, decodes the stored values and makes presentation values of them (PS3.3, PS3.5).

Not handled: overlays, presentation states (PR), more than one frame, colour, and the deflated transfer syntax, which
cannot be checked before it is inflated and which no radiograph needs.
"""

from cxrpipe.images.dicom.grey import presentation_values, shows_each_value
from cxrpipe.images.dicom.header import (
    FOR_PROCESSING,
    MEDIA_DIRECTORY,
    RADIOGRAPHS,
    Header,
    check_header,
    header_of,
    is_radiograph,
    read_header,
)
from cxrpipe.images.dicom.pixels import DicomImage, check_whole, image_of, parse
from cxrpipe.images.dicom.reduced import aligned
from cxrpipe.images.dicom.start import begins_as_dicom

__all__ = [
    "FOR_PROCESSING",
    "MEDIA_DIRECTORY",
    "RADIOGRAPHS",
    "DicomImage",
    "Header",
    "aligned",
    "begins_as_dicom",
    "check_header",
    "check_whole",
    "header_of",
    "image_of",
    "is_radiograph",
    "parse",
    "presentation_values",
    "read_header",
    "shows_each_value",
]
