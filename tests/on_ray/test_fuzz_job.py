"""2,000 mutated files are scored under Ray, as archives: see fuzz_job, which makes it 100,000 where it is asked to."""

from pathlib import Path

import pytest
from fuzz_job import FILES, by_ray, run_round, small_model

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_a_job_comes_to_its_end_with_every_file_accounted_for_whatever_is_in_them(
    ray_local: None, tmp_path: Path
) -> None:
    found = run_round(tmp_path, seed=0, files=FILES, model=small_model(tmp_path), score=by_ray)
    assert found.total() > FILES - 40
    kinds = {kind.rpartition(".")[2] for kind, status in found if status == "ok"}
    assert kinds >= {"png", "jpg", "jpeg", "dcm", "tar", "gz", "zip", "csv"}  # some come through, of every kind
