"""The study: the central noun, and the row of the study table."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 1
SPLITS = ("train", "valid", "test")
FRONTAL = ("PA", "AP", None)
"""View positions that count as frontal; null where the archive names no position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One image of a study, and where its bytes lie."""

    url: str
    """The object: a plain file, or the container that holds `entry`."""
    entry: str | None = None
    """Name inside the container; null for a plain object."""
    offset: int = 0
    """First byte of the (compressed) data in the object; for `gzip` and `npy`, in the uncompressed stream."""
    length: int = 0
    """Bytes to read from `offset`."""
    compression: str = "none"
    """`none`, `deflate` (a zip entry), `gzip` (an entry of a tar.gz) or `npy` (one image of an array in an npz)."""
    view_position: str | None = None
    sop_instance_uid: str | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    """Between rows, between columns: DICOM order (0028,0030)."""
    version: str = ""
    """Etag, modification time or CRC: changes when the bytes may have changed. It enters the digest, not the table."""
    crc32: int | None = None
    """CRC-32 of the file before it was packed, where the container records it, as a zip does."""

    @property
    def name(self) -> str:
        """The name of the view in messages: `s3://bucket/b07.tar!p12/s3.png`."""
        return self.url if self.entry is None else f"{self.url}!{self.entry}"


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskView(View):
    """A mask of one view, on the pixel grid of that view. Several masks of one view are united."""

    view: int = 0
    """Index of the masked view in `Study.views`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """One study as the catalogue knows it: identifiers and byte ranges, no pixels."""

    study_id: str
    patient_id: str | None = None
    views: tuple[View, ...] = ()
    mask_views: tuple[MaskView, ...] = ()
    split: str | None = None
    """`train`, `valid` or `test`. A layout may say `train_valid`, or null: the index then decides by hash."""
    labels: dict[str, float | None] = field(default_factory=dict)
    """Finding → 1 present, 0 absent, -1 uncertain, null not mentioned."""
    patient_age: float | None = None
    """Years."""
    patient_sex: str | None = None
    study_digest: str = ""

    def row(self) -> dict[str, Any]:
        """The study as a row of the study table."""
        row = _plain(self) | {f"label_{finding}": label for finding, label in self.labels.items()}
        row["views"] = [_plain(view) for view in self.views]
        row["mask_views"] = [_plain(mask) for mask in self.mask_views]
        row["study_digest"] = self.study_digest or digest(self.views)
        return row

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Study":
        labels = {key.removeprefix("label_"): value for key, value in row.items() if key.startswith("label_")}
        return cls(
            study_id=row["study_id"],
            patient_id=row["patient_id"],
            views=tuple(View(**view) for view in row["views"]),
            mask_views=tuple(MaskView(**mask) for mask in row.get("mask_views") or ()),
            split=row.get("split"),
            labels=labels,
            patient_age=row.get("patient_age"),
            patient_sex=row.get("patient_sex"),
            study_digest=row["study_digest"],
        )


def _plain(record: View | Study) -> dict[str, Any]:
    """The fields of a record by name. `asdict` would copy every value: two thirds of the time of a row."""
    return {field: getattr(record, field) for field in record.__dataclass_fields__}


def digest(views: Sequence[View]) -> str:
    """Hash of the files of the views: the same study with a new or changed view has another digest."""
    facts = sorted((view.url, view.entry or "", view.length, view.version) for view in views)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


_VIEW_FIELDS = [
    pa.field("url", pa.string(), nullable=False),
    pa.field("entry", pa.string()),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("length", pa.int64(), nullable=False),
    pa.field("compression", pa.string(), nullable=False),
    pa.field("view_position", pa.string()),
    pa.field("sop_instance_uid", pa.string()),
    pa.field("pixel_spacing_mm", pa.list_(pa.float32())),
    pa.field("crc32", pa.int64()),
]
VIEW = pa.struct(_VIEW_FIELDS)
MASK_VIEW = pa.struct([*_VIEW_FIELDS, pa.field("view", pa.int16(), nullable=False)])


def study_schema(findings: Sequence[str]) -> pa.Schema:
    """Columns of a study table whose archive labels `findings`."""
    return pa.schema(
        [
            pa.field("study_id", pa.string(), nullable=False),
            pa.field("patient_id", pa.string()),
            pa.field("study_digest", pa.string(), nullable=False),
            pa.field("views", pa.list_(VIEW), nullable=False),
            pa.field("mask_views", pa.list_(MASK_VIEW), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            *(pa.field(f"label_{finding}", pa.float32()) for finding in findings),
            pa.field("patient_age", pa.float32()),
            pa.field("patient_sex", pa.string()),
        ]
    )


SKIPPED_SCHEMA = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        pa.field("entry", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
    ]
)
UNMATCHED_SCHEMA = pa.schema([pa.field("study_id", pa.string(), nullable=False)])
