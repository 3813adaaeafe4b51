"""The scored archive that the tests of pages share. No test writes to it but verdicts."""

import pytest
from scored_films import Archive, scored_archive


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return scored_archive(tmp_path_factory.mktemp("reading-room"))
