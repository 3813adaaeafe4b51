"""What the header of one DICOM file says, as far as the study table needs it, or why the file is no radiograph.

The facts are kept as JSON for the next index, which does not open a file that has not changed.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from cxrpipe.archives.aside import DICOM_SUFFIXES, UNFINISHED
from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.labels import names_a_view, parse_age, parse_view_position
from cxrpipe.errors import StudyError
from cxrpipe.images.dicom import FOR_PROCESSING, MEDIA_DIRECTORY, Header, begins_as_dicom, is_radiograph, read_header
from cxrpipe.records.pseudonyms import Pseudonyms

HEAD_BYTES = 16 << 10
"""First bytes of a file, which hold most headers."""
# Suffixes of other files that lie beside DICOM files. A name without a suffix, or with `.1.2.840`, may be DICOM.
_OTHERS = re.compile(
    r"\.(xml|json|txt|csv|tsv|html?|pdf|md|log|ini|inf|exe|dll|jar|js|css|ico|png|jpe?g|gif|bmp|tiff?|webp|zip|gz|parquet)",
    re.IGNORECASE,
)


class Facts(NamedTuple):
    """What the header of a radiograph says."""

    study_instance_uid: str
    sop_instance_uid: str | None
    patient_id: str | None
    view_position: str | None
    patient_age: float | None
    patient_sex: str | None
    pixel_spacing_mm: tuple[float, float] | None
    patient_born: str | None
    """A hash of the birth date. It tells whether two birth dates are the same, and nothing else."""
    is_raw: bool
    """The file is an exposure FOR PROCESSING."""
    study_ids: tuple[str, str, str]
    """Id of the file's study: as a rule; where patients share its UID; and where people share the patient's id too."""
    splits: tuple[str | None, ...] = (None, None, None)
    """The split under each of the three ids, where pseudonyms hide the patient id that decides the split."""

    def hidden(self, pseudonyms: Pseudonyms) -> "Facts":
        """Replace ids by pseudonyms."""
        first, second, third = self.study_ids
        return self._replace(
            study_instance_uid=pseudonyms.of(self.study_instance_uid),
            sop_instance_uid=pseudonyms.maybe(self.sop_instance_uid),
            patient_id=pseudonyms.maybe(self.patient_id),
            patient_born=pseudonyms.maybe(self.patient_born),
            study_ids=(pseudonyms.of(first), pseudonyms.of(second), pseudonyms.of(third)),
            splits=tuple(pseudonyms.split(self.patient_id or study_id) for study_id in self.study_ids),
        )

    @classmethod
    def from_json(cls, fields: list[Any]) -> "Facts":
        """Read the facts back: JSON has made lists of tuples."""
        values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in fields]
        return cls(*values)


def is_named_as_dicom(name: str) -> bool:
    return name.lower().endswith(DICOM_SUFFIXES)


def may_be_dicom(name: str) -> bool:
    """Whether the name is not that of another kind of file."""
    return not _OTHERS.fullmatch(PurePosixPath(name).suffix)


def look(catalogue: Catalogue, file: File, head: bytes) -> str:
    """Return the facts of a file as JSON, or as a JSON text the reason why the file is no radiograph."""
    header = "unfinished_download" if file.suffix in UNFINISHED else _header(catalogue, file, head)
    if isinstance(header, str):
        return json.dumps(header)
    age, born = parse_age(header.patient_age or ""), header.patient_birth_date
    sex = header.patient_sex if header.patient_sex in ("M", "F", "O") else None
    uid, patient = header.study_instance_uid or "", _patient(header)
    apart = f"{uid}/{patient or '-'}"
    facts = Facts(
        study_instance_uid=uid,
        sop_instance_uid=header.sop_instance_uid,
        patient_id=patient,
        view_position=view_position(header),
        patient_age=age,
        patient_sex=sex,
        pixel_spacing_mm=header.pixel_spacing_mm,
        patient_born=_hash(born) if born else None,
        is_raw=_is_raw(header),
        study_ids=(uid, apart, f"{apart}/{_hash(f'{sex} {born} {age and int(age)}')}"),
    )
    return json.dumps(facts.hidden(catalogue.pseudonyms) if catalogue.pseudonyms else facts)


def _header(catalogue: Catalogue, file: File, head: bytes) -> Header | str:
    """Read the header of a radiograph, or say why the file is none."""
    name = view_of(file).name
    if not head:
        return "empty"
    if not begins_as_dicom(head):
        return "not DICOM"
    header, complete = _read_head(head, name)
    if header is None or not complete:
        header, _ = read_header(catalogue.read(file), name)
    if header.sop_class == MEDIA_DIRECTORY:
        return "DICOMDIR: a list of files, no image"
    if not is_radiograph(header):
        return "not_chest"
    if header.rows_px is None:
        return "no_pixel_data"
    return header if header.study_instance_uid else "no Study Instance UID (0020,000D)"


def _read_head(head: bytes, name: str) -> tuple[Header | None, bool]:
    """Read the header from the first bytes; None where they cut it so that it cannot be read."""
    try:
        return read_header(head, name)
    except StudyError:
        return None, False


def _is_raw(header: Header) -> bool:
    if header.presentation_intent in ("FOR PROCESSING", "FOR PRESENTATION"):
        return header.presentation_intent == "FOR PROCESSING"
    return header.sop_class == FOR_PROCESSING


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _patient(header: Header) -> str | None:
    """The patient id as HL7 writes it, `4711^^^HOSPITAL`: a number is unique only within the hospital that gave it."""
    if header.patient_id and header.issuer_of_patient_id:
        return f"{header.patient_id}^^^{header.issuer_of_patient_id}"
    return header.patient_id


def view_position(header: Header) -> str | None:
    """Read the view position from View Position, else from the view's code, else from Patient Orientation, else from
    Series Description."""
    texts = (
        header.view_position,
        header.view_code,
        _as_oriented(header.patient_orientation),
        header.series_description,
    )
    return next((parse_view_position(text) for text in texts if text and names_a_view(text)), None)


def _as_oriented(orientation: Sequence[str]) -> str | None:
    """Read FRONTAL or LATERAL from Patient Orientation (0020,0020).

    Rows of a frontal film point to the left or right, those of a lateral film to the front or back. Columns point to
    head or feet, and so do the rows of a film that lies on its side.
    """
    sides = {side[0] for side in orientation if side} - {"H", "F"}
    if len(orientation) != 2 or len(sides) != 1:
        return None
    return {"L": "FRONTAL", "R": "FRONTAL", "A": "LATERAL", "P": "LATERAL"}.get(sides.pop())
