"""The reasons for which a view or a study is not scored: the words of the column `reason`, in one table."""

from typing import NamedTuple


class Reason(NamedTuple):
    status: str
    """`failed`: nothing is readable. `rejected`: readable, but not to be scored."""
    retryable: bool
    """Whether a later run may succeed without any change to the object itself."""
    meaning: str
    what_to_do: str
    """For a person, once the study has its row."""


INTERNAL_ERROR = "internal_error"
"""The reason of a study that met an error in this program. A resumed or later run scores the study again."""

REASONS: dict[str, Reason] = {
    "empty": Reason("failed", False, "zero bytes", "copy the file again"),
    "truncated": Reason("failed", False, "ends before its format says it should", "copy the file again"),
    "corrupt": Reason("failed", False, "checksums or structure do not hold", "copy or export the file again"),
    "not_an_image": Reason(
        "failed",
        False,
        "no PNG, JPEG, TIFF, BMP, WebP or DICOM, or of a kind that is not read",
        "convert it; detail names the kind",
    ),
    "too_large": Reason("failed", False, "declares more pixels than the limit", "export it smaller"),
    "too_small": Reason("failed", False, "smaller than any radiograph", "remove it, or export it in its own size"),
    "unsupported_transfer_syntax": Reason(
        "failed", False, "no decoder for this DICOM transfer syntax", "export it with another transfer syntax"
    ),
    "no_pixel_data": Reason("failed", False, "a DICOM object without pixels", "nothing, or export the image"),
    "duplicate_instance": Reason("failed", False, "the same instance stands elsewhere in the archive", "nothing"),
    "crashed": Reason("failed", False, "killed its decoder", "--retry crashed after an update"),
    "timeout": Reason("failed", True, "took longer than the limit", "the next night tries again"),
    "missing": Reason(
        "failed", True, "not where the study table says", "the next night tries again; index again if many are"
    ),
    "denied": Reason(
        "failed", True, "access denied, while other objects can be read", "mend the rights; the next night tries again"
    ),
    INTERNAL_ERROR: Reason(
        "failed",
        True,
        "an error in this program, not in the object; the log has its traceback",
        "report it; the next night tries again",
    ),
    "not_chest": Reason("rejected", False, "not a chest radiograph by its header", "nothing"),
    "no_frontal": Reason(
        "rejected", False, "no frontal view, and the model needs one", "nothing; check the view positions if many are"
    ),
    "blank": Reason("rejected", False, "no contrast: nothing to see", "nothing"),
}
