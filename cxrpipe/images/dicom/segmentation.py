"""Writes a lung mask as a DICOM segmentation (PS3.3 A.51) of its radiograph, with highdicom.

The object has the patient and the study of its source, and names the model that drew the mask. The same source and the
same model give the same instance again.
"""

import io
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from cxrpipe import __version__
from cxrpipe.errors import ConfigError, StudyError

_SERIES_NUMBER = 9_001
_TYPE_1 = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
"""Elements that a source must have, even if empty. Some archives lack them; `encode` adds them as empty."""


@dataclass(frozen=True)
class Model:
    """The segmenter, as the DICOM object names it."""

    name: str
    version: str

    @classmethod
    def of(cls, architecture: str, weights_sha256: str) -> "Model":
        """The segmenter with these weights."""
        return cls(f"cxrpipe {architecture}", weights_sha256[:12])


def encode(source: pydicom.Dataset, mask: np.ndarray, model: Model, name: str) -> bytes:
    """The bytes of a DICOM file with `mask` (H, W) bool as the only, binary segment of `source`.

    Raises StudyError if the source has another size, or lacks a UID to refer to. `name` opens the message.
    """
    try:
        import highdicom as hd
        from highdicom.seg import Segmentation, SegmentDescription
        from pydicom.sr.codedict import codes
    except ImportError:
        raise ConfigError("--dicom-seg needs the package highdicom: pip install 'cxrpipe[dicom-seg]'") from None
    if lacking := [keyword for keyword in _TYPE_1 if not source.get(keyword)]:
        raise StudyError(
            "corrupt", f"{name}: has no {', no '.join(lacking)}; a segmentation must refer to its source by them"
        )
    if (source.Rows, source.Columns) != mask.shape:
        raise StudyError(
            "corrupt",
            f"{name}: the image has {source.Rows}x{source.Columns} pixels, its mask "
            f"{mask.shape[0]}x{mask.shape[1]}; expected the same size",
        )
    for keyword in _TYPE_2:
        if keyword not in source:
            setattr(source, keyword, None)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=model.name, version=model.version, family=codes.cid7162.ArtificialIntelligence
    )
    lungs = SegmentDescription(
        segment_number=1,
        segment_label="Lungs",
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Lung,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    segmentation = Segmentation(
        source_images=[source],
        pixel_array=mask[None].astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[lungs],
        series_instance_uid=generate_uid(entropy_srcs=[source.StudyInstanceUID, model.version, "series"]),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=generate_uid(entropy_srcs=[source.SOPInstanceUID, model.version, "instance"]),
        instance_number=1,
        manufacturer="cxrpipe",
        manufacturer_model_name=model.name,
        software_versions=__version__,
        device_serial_number=model.version,
        series_description="Lungs, automatic; for research, not a medical device",
        content_label="LUNGS",
        content_description="Lungs, automatic",
    )
    file = io.BytesIO()
    segmentation.save_as(file)
    return file.getvalue()
