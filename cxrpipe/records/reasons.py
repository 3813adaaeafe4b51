"""The reasons for which a view or a study is not scored: the words of the column `reason`, in one table."""

from typing import NamedTuple


class Reason(NamedTuple):
    status: str
    """`failed`: nothing is readable. `rejected`: readable, but not to be scored."""
    retryable: bool
    """Whether a later run may succeed without any change to the object itself."""
    meaning: str


INTERNAL_ERROR = "internal_error"
"""The reason of a study that met an error in this program. A resumed or later run scores the study again."""

REASONS: dict[str, Reason] = {
    "empty": Reason("failed", False, "zero bytes"),
    "truncated": Reason("failed", False, "ends before its format says it should"),
    "corrupt": Reason("failed", False, "checksums or structure do not hold"),
    "not_an_image": Reason("failed", False, "no PNG, JPEG, TIFF, BMP, WebP or DICOM, or of a kind that is not read"),
    "too_large": Reason("failed", False, "declares more pixels than the limit"),
    "too_small": Reason("failed", False, "smaller than any radiograph"),
    "unsupported_transfer_syntax": Reason("failed", False, "no decoder for this DICOM transfer syntax"),
    "no_pixel_data": Reason("failed", False, "a DICOM object without pixels"),
    "duplicate_instance": Reason("failed", False, "the same instance stands elsewhere in the archive"),
    "crashed": Reason("failed", False, "killed its decoder"),
    "timeout": Reason("failed", True, "took longer than the limit"),
    "missing": Reason("failed", True, "not where the study table says"),
    "denied": Reason("failed", True, "access denied, while other objects can be read"),
    INTERNAL_ERROR: Reason("failed", True, "an error in this program, not in the object; the log has its traceback"),
    "not_chest": Reason("rejected", False, "not a chest radiograph by its header"),
    "no_frontal": Reason("rejected", False, "no frontal view, and the model needs one"),
    "blank": Reason("rejected", False, "no contrast: nothing to see"),
}
