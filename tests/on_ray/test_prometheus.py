"""What a scoring job says on the Prometheus endpoint of Ray's nodes."""

import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray
from builders import nih_table, small_classifier

from cxrpipe.config import ScoreConfig
from cxrpipe.on_ray import score as on_ray
from cxrpipe.programs.score import score_archive

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STUDIES = 24


def _scraped() -> str:
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return urllib.request.urlopen(url, timeout=5).read().decode()


def _sum(scraped: str, name: str, label: str = "") -> float:
    lines = re.findall(rf"^ray_{name}(?:_total)?{{(.*)}} ([0-9.e+]+)", scraped, re.MULTILINE)
    return sum(float(value) for labels, value in lines if label in labels)


def test_studies_by_status_bytes_and_stage_seconds_can_be_scraped(ray_local: None, tmp_path: Path) -> None:
    table = nih_table(tmp_path, studies=STUDIES)
    model = small_classifier(tmp_path / "model")
    config = ScoreConfig(studies=table.url, models=(model.url,), out=str(tmp_path / "out"), part_studies=8)
    assert score_archive(config, on_ray.engine) == 0
    end = time.monotonic() + 90  # metrics leave a process every ten seconds
    while _sum(scraped := _scraped(), "cxrpipe_studies", 'status="ok"') < STUDIES:
        assert time.monotonic() < end, [line for line in scraped.splitlines() if "cxrpipe" in line]
        time.sleep(1)
    assert _sum(scraped, "cxrpipe_stage_seconds", 'stage="prepare"') > 0
    assert _sum(scraped, "cxrpipe_read_bytes") > 1_000
    told = "\n".join(line for line in scraped.splitlines() if "cxrpipe" in line)
    assert not [study.study_id for study in table.studies() if study.study_id in told]
