"""DICOM in any tree, with or without extensions: what a file is stands in its header, and nothing in its name.

One SOP instance is one view; a study is what shares a Study Instance UID, wherever its files lie. Computed and digital
radiographs are catalogued whatever their body part: scoring rejects those that say another one than chest.

Not handled: the view from View Code Sequence (0054,0220) where View Position is empty.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from cxrpipe.archives.catalogue import Catalogue, view_of
from cxrpipe.archives.layout import Found, Skipped
from cxrpipe.containers import File
from cxrpipe.dicom import RADIOGRAPHS, Header, begins_as_dicom, read_header
from cxrpipe.errors import StudyError
from cxrpipe.labels import parse_age
from cxrpipe.records import Study, View

NAME = "dicom"
SUFFIXES = (".dcm", ".dicom")
_PARTIAL = (".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp")
_HEAD_BYTES = 16 << 10
_LOOKED_INTO = 8
_LATERAL = ("LATERAL", "LAT", "L")


def recognise(names: Sequence[str]) -> str | None:
    named = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    if 2 * len(named) < len(names) or not named:
        return None
    return f"{len(named)} of {len(names)} files are named as DICOM"


def recognise_contents(catalogue: Catalogue) -> str | None:
    """Some of the files that are named as DICOM, or of all where none is, looked into: a name proves nothing."""
    files = [file for file in catalogue.files() if file.suffix in SUFFIXES] or catalogue.files()
    some = list(itertools.islice(files, 0, None, max(1, len(files) // _LOOKED_INTO)))[:_LOOKED_INTO]
    heads = [head for _, head in catalogue.heads(some, 256)]
    dicom = sum(isinstance(head, bytes) and begins_as_dicom(head) for head in heads)
    return f"{dicom} of {len(heads)} files that were looked into begin as DICOM" if 2 * dicom >= len(heads) else None


def studies(catalogue: Catalogue) -> Iterator[Found]:
    """Files in the order of their names: of one SOP instance the first file stays."""
    found: dict[str, Study] = {}
    instances: set[str] = set()
    for file, header in _headers(catalogue):
        if isinstance(header, str):
            yield Skipped(file.url, file.entry, header)
        elif header.sop_instance_uid in instances:
            yield Skipped(file.url, file.entry, "duplicate_instance")
        else:
            if header.sop_instance_uid:
                instances.add(header.sop_instance_uid)
            study_id = header.study_instance_uid or ""
            study = found.get(study_id) or _study(study_id, header)
            found[study_id] = replace(study, views=(*study.views, _view(file, header)))
    yield from found.values()


def _headers(catalogue: Catalogue) -> Iterator[tuple[File, Header | str]]:
    """Each file with its header, or with the reason why it is no radiograph."""
    files = sorted(catalogue.files(), key=lambda file: (file.name, file.url))
    for file, head in catalogue.heads((file for file in files if not _is_partial(file)), _HEAD_BYTES):
        try:
            if isinstance(head, StudyError):
                raise head
            yield file, _header(catalogue, file, head)
        except StudyError as error:
            yield file, error.reason
    yield from ((file, "unfinished download") for file in files if _is_partial(file))


def _header(catalogue: Catalogue, file: File, head: bytes) -> Header | str:
    name = view_of(file).name
    if not head:
        return "empty"
    if not begins_as_dicom(head):
        return "not DICOM"
    header, settled = _read(head, name)
    if header is None or not settled:
        header, _ = read_header(catalogue.read(file), name)
    if header.modality and header.modality not in RADIOGRAPHS:
        return "not_chest"
    if header.rows_px is None:
        return "no_pixel_data"
    return header if header.study_instance_uid else "no Study Instance UID (0020,000D)"


def _read(head: bytes, name: str) -> tuple[Header | None, bool]:
    """What the first bytes say. A header that they cut can look like anything."""
    try:
        return read_header(head, name)
    except StudyError:
        return None, False


def _is_partial(file: File) -> bool:
    return file.suffix in _PARTIAL


def _study(study_id: str, header: Header) -> Study:
    return Study(
        study_id=study_id,
        patient_id=_patient(header),
        patient_age=parse_age(header.patient_age or ""),
        patient_sex=header.patient_sex if header.patient_sex in ("M", "F", "O") else None,
    )


def _view(file: File, header: Header) -> View:
    return replace(
        view_of(file, view_position(header.view_position)),
        sop_instance_uid=header.sop_instance_uid,
        pixel_spacing_mm=header.pixel_spacing_mm,
    )


def _patient(header: Header) -> str | None:
    """As HL7 writes it, `4711^^^HOSPITAL`: a number is unique only where it was given."""
    if header.patient_id and header.issuer_of_patient_id:
        return f"{header.patient_id}^^^{header.issuer_of_patient_id}"
    return header.patient_id


def view_position(text: str | None) -> str | None:
    """View Position (0018,5101) in the words of the study table; what it does not name is null."""
    words = re.findall(r"[A-Z]+", text or "")
    for word in words:
        if word in ("PA", "AP", "LL", "RL"):
            return word
    return "LATERAL" if any(word in _LATERAL for word in words) else None
