"""A lung mask as a DICOM segmentation (PS3.3 A.51) of the radiograph that it was made of, by highdicom.

The object has the patient and the study of its source, and names the model that drew it. Made again of the same source
by the same model it is the same instance.
"""

import io
from dataclasses import dataclass
from typing import Any

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
"""What a source must name, if only as empty; not every archive does."""


@dataclass(frozen=True)
class Model:
    """The segmenter, as an object that leaves the project names it."""

    name: str
    version: str

    @classmethod
    def of(cls, account: dict[str, Any]) -> "Model":
        """The segmenter of a run."""
        (model,) = (each for each in account["models"] if each["task"] == "segment")
        return cls(f"cxrpipe {model['architecture']}", model["weights_sha256"][:12])


def encode(source: pydicom.Dataset, mask: np.ndarray, model: Model, name: str) -> bytes:
    """The bytes of a DICOM file: `mask` (H, W) bool as the one binary segment of `source`; `name` is for messages.

    StudyError where the source is of another size, or has no UID to refer to.
    """
    try:
        import highdicom as hd
        from highdicom.seg import Segmentation, SegmentDescription
        from pydicom.sr.codedict import codes
    except ImportError:
        raise ConfigError("--dicom-seg needs the package highdicom: pip install 'cxrpipe[dicom-seg]'") from None
    if lacking := [keyword for keyword in _TYPE_1 if not source.get(keyword)]:
        raise StudyError("corrupt", f"{name}: names no {', no '.join(lacking)}; a segmentation must refer to it")
    if (source.Rows, source.Columns) != mask.shape:
        raise StudyError("corrupt", f"{name}: {source.Rows} × {source.Columns}; its mask {mask.shape}")
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
    made = Segmentation(
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
    made.save_as(file)
    return file.getvalue()
