"""The lung masks that come with an archive: people have outlined them."""

import numpy as np

from cxrpipe.archives.reader import Reader
from cxrpipe.errors import StudyError
from cxrpipe.images import radiographs
from cxrpipe.images.masks import scaled_to
from cxrpipe.records import Study


def truth_mask(study: Study, number: int, reader: Reader, size_px: tuple[int, int]) -> np.ndarray:
    """Unite the masks of view `number` on the grid of its image; (H, W) bool.

    size_px  (rows, columns) of the image; a mask of the same proportions is scaled to this size

    StudyError where a mask cannot be read or has other proportions.
    """
    united: np.ndarray | None = None
    for mask in study.mask_views:
        if mask.view == number:
            pixels = scaled_to(radiographs.decode_mask(reader.read(mask), mask.name), size_px, mask.name)
            united = pixels if united is None else united | pixels
    if united is None:
        raise StudyError("missing", f"{study.study_id}: no mask of view {number}")
    return united
