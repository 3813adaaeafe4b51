"""Mutated bytes end as data or as our own error: never as another exception, a crash or a hang, and in bounded memory.

They are decoded in a process of its own, which is killed after TIMEOUT_S and may have MEMORY_BYTES.
"""

import multiprocessing
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import decoders
import pytest
from mutations import CONTAINERS, DICOM, IMAGES, mutate, mutated, whole

from cxrpipe.errors import StudyError
from cxrpipe.images.isolation import Isolated

pytestmark = pytest.mark.slow

TIMEOUT_S = 30
MEMORY_BYTES = 3 << 30  # a picture may have 100 million pixels, if the mutation says so
MUTATIONS = int(os.environ.get("CXRPIPE_FUZZ", "2000"))


@pytest.fixture(scope="module")
def decode() -> Iterator[Callable[[bytes], None]]:
    """Asserts that bytes become a picture or a reason."""
    with Isolated(decoders.pixels_of, TIMEOUT_S, memory_bytes=MEMORY_BYTES) as isolated:

        def decoded(data: bytes) -> None:
            try:
                isolated(data, "mutated", ())
            except StudyError as error:
                if error.reason in ("crashed", "timeout"):
                    pytest.fail(error.detail)

        yield decoded


@pytest.mark.parametrize("name", IMAGES)
def test_mutated_images_become_pictures_or_reasons(decode: Callable[[bytes], None], name: str) -> None:
    rng = random.Random(0)
    for number in range(MUTATIONS // 10):
        decode(mutated(name, rng, mended=number % 2 == 1))


@pytest.mark.parametrize("name", DICOM)
def test_mutated_dicom_files_become_pictures_or_reasons(decode: Callable[[bytes], None], name: str) -> None:
    rng = random.Random(0)
    for number in range(MUTATIONS // 10):
        decode(mutated(name, rng, mended=number % 2 == 1))


@pytest.mark.parametrize("name", ["RG1_JLSN", "RG1_J2KI"])
def test_mutated_real_dicom_files_become_pictures_or_reasons(
    decode: Callable[[bytes], None], real_data: Path, name: str
) -> None:
    """Their codecs cannot be written here. Few, for they are large."""
    encoded = (real_data / "dicom" / name).read_bytes()
    rng = random.Random(0)
    for _ in range(MUTATIONS // 200):
        decode(encoded[:6000] + mutate(encoded[6000:], rng))


@pytest.mark.parametrize("name", CONTAINERS)
def test_mutated_containers_give_studies_that_can_be_read_or_reasons(tmp_path: Path, name: str) -> None:
    rng = random.Random(0)
    with multiprocessing.get_context("spawn").Pool(1, decoders.limit_memory, (MEMORY_BYTES,)) as process:

        def studies_of(data: bytes, path: Path) -> int | None:
            return process.apply_async(decoders.index_of, (data, str(path))).get(TIMEOUT_S)

        assert studies_of(whole(name), tmp_path / name) == 6
        several = (mutated(name, rng, mended=number % 2 == 1) for number in range(MUTATIONS // 20))
        assert None in [studies_of(data, tmp_path / f"mutated_{name}") for data in several]
