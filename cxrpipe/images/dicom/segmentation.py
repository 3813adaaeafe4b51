"""Writes masks as a DICOM segmentation (PS3.3 A.51) of their radiograph, with highdicom.

The object has the patient and the study of its source, and names the model that drew the masks. The same source and the
same model give the same instance again.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from cxrpipe import __version__
from cxrpipe.errors import ConfigError, StudyError

_SERIES_NUMBER = 9_001
_MOST_CHARACTERS = 64
"""Of a value of the representation LO, such as the name of an algorithm."""
_TYPE_1 = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_TYPE_2 = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
"""Elements that a source must have, even if empty. Some archives lack them; `encode` adds them as empty."""
LUNGS = "lungs"
"""Name of the mask of both lungs."""
_TYPES = {
    "lung": "Lung",
    "heart": "Heart",
    "aorta": "Aorta",
    "mediastinum": "Mediastinum",
    "hilum": "HilumOfLung",
    "clavicle": "Clavicle",
    "scapula": "Scapula",
    "spine": "Spine",
    "diaphragm": "Diaphragm",
    "esophagus": "Esophagus",
}
"""Name of a structure without its side → keyword of its SNOMED code. The label of a segment tells the side."""


@dataclass(frozen=True)
class Model:
    """The segmenter, or several that vote, as the DICOM object names them."""

    name: str
    version: str

    @classmethod
    def of(cls, architectures: Sequence[str], weights_sha256: Sequence[str]) -> "Model":
        """The segmenter with these weights, or several that vote: their version is a hash of all weights."""
        if len(architectures) == 1:
            return cls(f"cxrpipe {architectures[0]}", weights_sha256[0][:12])
        name = f"cxrpipe vote of {', '.join(architectures)}"
        return cls(name[:_MOST_CHARACTERS], hashlib.sha256("".join(weights_sha256).encode()).hexdigest()[:12])


def encode(source: pydicom.Dataset, masks: Mapping[str, np.ndarray], model: Model, name: str) -> bytes:
    """The bytes of a DICOM file with `masks`, name → (H, W) bool, as binary segments of `source`; they may overlap.

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
    pixels = np.stack([*masks.values()], axis=-1)[None]  # (1, H, W, segments)
    if (source.Rows, source.Columns) != pixels.shape[1:3]:
        raise StudyError(
            "corrupt",
            f"{name}: the image has {source.Rows}x{source.Columns} pixels, its mask "
            f"{pixels.shape[1]}x{pixels.shape[2]}; expected the same size",
        )
    for keyword in _TYPE_2:
        if keyword not in source:
            setattr(source, keyword, None)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=model.name, version=model.version, family=codes.cid7162.ArtificialIntelligence
    )
    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=structure.replace("_", " ").capitalize(),
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=getattr(codes.SCT, _type_of(structure)),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, structure in enumerate(masks, start=1)
    ]
    what = "Lungs" if [*masks] == [LUNGS] else "Chest structures"
    segmentation = Segmentation(
        source_images=[source],
        pixel_array=pixels.astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(entropy_srcs=[source.StudyInstanceUID, model.version, "series"]),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=generate_uid(entropy_srcs=[source.SOPInstanceUID, model.version, "instance"]),
        instance_number=1,
        manufacturer="cxrpipe",
        manufacturer_model_name=model.name,
        software_versions=__version__,
        device_serial_number=model.version,
        series_description=f"{what}, automatic; for research, not a medical device",
        content_label="LUNGS" if what == "Lungs" else "STRUCTURES",
        content_description=f"{what}, automatic",
    )
    file = io.BytesIO()
    segmentation.save_as(file)
    return file.getvalue()


def _type_of(structure: str) -> str:
    """Keyword of the SNOMED code of a structure."""
    plain = structure.removeprefix("left_").removeprefix("right_")
    return _TYPES.get(plain, "Lung" if structure == LUNGS else "AnatomicalStructure")
