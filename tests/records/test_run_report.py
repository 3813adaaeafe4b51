"""run.json as a value: its keys stay, and files of other versions can be read."""

import json

from cxrpipe.records import ModelReport, RunReport
from cxrpipe.records.run_report import count_forgotten

KEYS = (
    "run_id studies studies_per_second seconds device precision kernels computed_on stage_seconds busy_shares "
    "scored_before_resume derived counts fingerprint views_fingerprint findings models settings versions start end"
)
KEYS_OF_A_MODEL = (
    "url task architecture weights_sha256 findings thresholds archive split_seed source licence citation card "
    "backbone_archive backbone_split_seed"
)


def test_the_keys_of_the_file_and_their_order_stay():
    facts = json.loads(RunReport(run_id="r", models=(ModelReport(url="m"),)).to_json())
    assert " ".join(facts) == KEYS
    assert " ".join(facts["models"][0]) == KEYS_OF_A_MODEL


def test_a_report_is_read_as_it_was_written():
    report = RunReport(run_id="r", findings=("Mass",), models=(ModelReport(url="m", thresholds={"Mass": 0.5}),))
    assert RunReport.from_json(report.to_json()) == report


def test_what_an_early_version_did_not_write_has_its_default_and_what_a_later_one_adds_is_ignored():
    report = RunReport.from_json(b'{"run_id": "r", "models": [{"url": "m", "colour": 1}], "weather": "fine"}')
    assert report == RunReport(run_id="r", models=(ModelReport(url="m"),))
    assert report.members == report.models
    assert report.members[0].knows("Mass")  # every member did


def test_the_members_are_all_models_but_the_segmenter_in_their_order():
    kinds = {"backbone": "embed", "own": "classify", "lungs": "segment"}
    findings = {"own": ("Mass",)}
    models = tuple(ModelReport(url=url, task=task, findings=findings.get(url, ())) for url, task in kinds.items())
    report = RunReport.from_json(RunReport(models=models).to_json())
    assert report.members == models[:2]
    assert [member.knows("Mass") for member in report.members] == [False, True]


def test_counting_forgotten_rows_leaves_every_other_key_as_it_is():
    changed = json.loads(count_forgotten(b'{"run_id": "r", "weather": "fine", "forgotten": 2}', 3))
    assert changed == {"run_id": "r", "weather": "fine", "forgotten": 5}
