"""Small DICOM files, written by pydicom."""

import io

import numpy as np
import pydicom
import pydicom.encaps
import pydicom.uid
from pydicom.dataset import Dataset, FileMetaDataset

STUDY, INSTANCE = "1.2.3.4", "1.2.3.4.5"
COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"


def lut(table: np.ndarray, first: int = 0, bits: int = 16) -> Dataset:
    """An item of a Modality or VOI LUT Sequence."""
    item = Dataset()
    item.LUTDescriptor = [len(table) % 65536, first, bits]
    item["LUTDescriptor"].VR = "US"
    item.add_new(0x0028_3006, "OW", np.asarray(table, "<u2").tobytes())
    return item


def dataset(
    values: np.ndarray | None = None, *, bits: int = 8, syntax: str = pydicom.uid.ExplicitVRLittleEndian, **tags: object
) -> Dataset:
    """A CR of the chest with `values` (H, W); a tag that is None is left out."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = COMPUTED_RADIOGRAPHY
    made.file_meta.MediaStorageSOPInstanceUID = str(tags.get("SOPInstanceUID") or INSTANCE)
    facts: dict[str, object] = {
        "SOPClassUID": COMPUTED_RADIOGRAPHY,
        "SOPInstanceUID": INSTANCE,
        "StudyInstanceUID": STUDY,
        "PatientID": "4711",
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
    }
    if values is not None:
        facts |= {
            "Rows": values.shape[0],
            "Columns": values.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 8 * values.dtype.itemsize,
            "BitsStored": bits,
            "HighBit": bits - 1,
            "PixelRepresentation": int(values.dtype.kind == "i"),
        }
    for keyword, value in (facts | tags).items():
        if value is not None:
            setattr(made, keyword, value)
    if values is not None:
        made.add_new(0x7FE0_0010, "OB" if values.itemsize == 1 else "OW", values.tobytes())
    return made


def encapsulated(frame: bytes, syntax: str, values: np.ndarray, **settings: object) -> bytes:
    """A DICOM file whose only frame is `frame`; its header describes `values` (H, W)."""
    made = dataset(values, syntax=syntax, **settings)  # type: ignore[arg-type]
    made.PixelData = pydicom.encaps.encapsulate([frame])
    return saved(made)


def saved(made: Dataset) -> bytes:
    file = io.BytesIO()
    pydicom.dcmwrite(file, made, enforce_file_format=True)
    return file.getvalue()


def dicom(values: np.ndarray | None = None, **settings: object) -> bytes:
    return saved(dataset(values, **settings))  # type: ignore[arg-type]
