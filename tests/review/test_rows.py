"""The rows of a score root as the reading room asks for them."""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import table_of
from published import FINGERPRINT, publish, row

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.records import Study, View, read_scores
from cxrpipe.review.answers import FindingFigures
from cxrpipe.review.filters import SORTS, Filter
from cxrpipe.review.rows import Rows
from cxrpipe.runs.root import ScoreRoot

FIRST = [
    row("a1", {"Pneumonia": (0.9, 0.8), "Pleural_Effusion": (0.1, 0.2)}, patient_id="ann", flags=["ood"]),
    row("a2", {"Pneumonia": (0.2, 0.3), "Pleural_Effusion": (0.7, 0.9)}, patient_id="ann", positions=("AP", "LL")),
    row("b1", {"Pneumonia": (0.1, 0.6), "Pleural_Effusion": (0.1, 0.1)}, patient_id="bob", positions=(None,)),
    row("b2", status="failed", reason="truncated", patient_id="bob"),
    row("c1", {"Pneumonia": (0.85, 0.85), "Pleural_Effusion": (0.5, 0.5)}, patient_id="Cyd"),
    row("c2", status="rejected", reason="blank", patient_id=None),
]
SECOND = [
    row("b2", {"Pneumonia": (0.4, 0.4), "Pleural_Effusion": (0.3, 0.3)}, patient_id="bob", status="partial"),
    row(
        "d1",
        {"Pneumonia": (0.6, 0.5), "Pleural_Effusion": (0.0, 0.1)},
        patient_id="dan",
        flags=["ood", "lungs_cropped"],
    ),
    row("d2", status="failed", reason="missing", patient_id="dan"),
]
BY_PROB = ["a1", "c1", "a2", "d1", "b2", "b1", "c2", "d2"]
"""By the largest probability of all findings; studies without one last."""


def two_nights(root: str) -> str:
    publish(root, "2026-11-27", FIRST, studies_per_second=1.5)
    publish(root, "2026-11-28", SECOND)
    return root


def studies() -> Iterator[Study]:
    for number, (study_id, patient_id) in enumerate([("a1", "ann"), ("a2", "ann"), ("b1", "bob"), ("b2", "bob")]):
        yield Study(
            study_id=study_id,
            patient_id=patient_id,
            views=(View(url=f"/cxr/{study_id}"),),
            split=("train", "test")[number // 2],
            labels={"Pneumonia": (1, -1, 0, None)[number], "Nodule": 1},
            patient_age=20 + 10 * number,
            patient_sex="FM"[number // 2],
        )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return two_nights(str(tmp_path_factory.mktemp("root")))


@pytest.fixture(scope="module")
def rows(root: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    table = table_of(tmp_path_factory.mktemp("table"), studies())
    with Rows.open(ScoreRoot.at(root), table=table) as opened:
        yield opened


def ids(rows: Rows, **conditions: object) -> list[str]:
    return [each["study_id"] for each in rows.page(Filter(**conditions)).rows]


def test_a_list_holds_the_newest_row_of_every_study_on_disk_and_on_s3(anywhere):
    two_nights(anywhere)
    with Rows.open(ScoreRoot.at(anywhere)) as rows:
        page = rows.page(Filter())
        assert [each["study_id"] for each in page.rows] == BY_PROB
        assert page.total == 8
        newest = {each["study_id"]: each for each in read_scores(anywhere).to_pylist()}
        for each in page.rows:
            assert newest[each["study_id"]].items() >= {name: each[name] for name in each if name != "run_id"}.items()
        assert {each["study_id"] for each in page.rows if each["run_id"] == "2026-11-28"} == {"b2", "d1", "d2"}
        assert ids(rows, view_position="LL") == ["a2"]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"finding": "Pneumonia"}, ["a1", "c1", "d1", "b2", "b1", "a2", "c2", "d2"]),
        ({"finding": "Pneumonia", "prob_from": 0.35, "prob_to": 0.55}, ["d1", "b2", "b1"]),
        ({"prob_from": 0.85}, ["a1", "c1"]),
        ({"finding": "Pneumonia", "votes": 1}, ["a1", "c1", "d1", "b1"]),
        ({"finding": "Pneumonia", "disagreement_from": 0.2}, ["b1"]),
        ({"finding": "Pneumonia", "decision": "positive"}, ["a1", "c1", "d1"]),
        ({"finding": "Pneumonia", "decision": "negative"}, ["b2", "b1", "a2"]),
        ({"decision": "negative"}, ["b2", "b1"]),
        ({"flag": "ood"}, ["a1", "d1"]),
        ({"status": "failed"}, ["d2"]),
        ({"reason": "blank"}, ["c2"]),
        ({"run_id": "2026-11-28"}, ["d1", "b2", "d2"]),
        ({"split": "test"}, ["b2", "b1"]),
        ({"finding": "Pneumonia", "label": "1"}, ["a1"]),
        ({"finding": "Pneumonia", "label": "-1"}, ["a2"]),
        ({"label": "0"}, ["b1"]),
        ({"label": "none"}, ["c1", "d1", "b2", "c2", "d2"]),
        ({"age_from": 30, "age_to": 40}, ["a2", "b1"]),
        ({"sex": "F"}, ["a1", "a2"]),
        ({"view_position": "LL"}, ["a2"]),
        ({"view_position": "none"}, ["b1"]),
        ({"text": "B"}, ["b2", "b1"]),
        ({"text": "cYd"}, ["c1"]),
        ({"text": "%"}, []),
        ({"text": "' OR true --"}, []),
        ({"flag": "x'); DROP TABLE rows; --"}, []),
        ({"sort": "study_id", "descending": False, "page": 1}, ["a1", "a2", "b1", "b2", "c1", "c2", "d1", "d2"]),
        ({"sort": "patient_age"}, ["b2", "b1", "a2", "a1", "c1", "c2", "d1", "d2"]),
        ({"sort": "run_id", "status": "ok"}, ["d1", "a1", "a2", "b1", "c1"]),
        ({"sort": "shuffled", "descending": False}, sorted(BY_PROB, key=lambda name: md5(name.encode()).hexdigest())),
    ],
)
def test_a_filter_selects_and_sorts(rows, conditions, expected):
    page = rows.page(Filter(**conditions))
    assert [each["study_id"] for each in page.rows] == expected
    assert page.total == len(expected)


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort", SORTS)
def test_pages_hold_every_study_once_and_beside_walks_them_in_their_order(rows, sort, descending):
    asked = Filter(sort=sort, descending=descending)
    pages = [rows.page(replace(asked, page=number), size=3) for number in (1, 2, 3, 4)]
    listed = [each["study_id"] for page in pages for each in page.rows]
    assert sorted(listed) == sorted(BY_PROB)
    assert [len(page.rows) for page in pages] == [3, 3, 2, 0]
    assert pages[0].pages == 3
    beside = [rows.beside(asked, study_id) for study_id in listed]
    assert [previous for previous, _ in beside] == [None, *listed[:-1]]
    assert [following for _, following in beside] == [*listed[1:], None]


def test_beside_a_study_that_a_filter_leaves_out_lie_its_neighbours_in_that_order(rows):
    assert rows.beside(Filter(finding="Pneumonia", decision="positive"), "b1") == ("d1", None)
    assert rows.beside(Filter(), "no such study") == (None, None)


def test_a_row_of_a_list_has_labels_split_age_and_sex_of_the_study_table(rows):
    (listed,) = rows.page(Filter(text="a1")).rows
    assert listed.items() >= {"split": "train", "label_Pneumonia": 1, "patient_age": 20.0, "patient_sex": "F"}.items()
    assert "label_Nodule" not in listed  # it was not scored
    assert rows.labelled == ("Pneumonia",)


def test_without_a_table_a_filter_on_it_says_what_is_missing(root):
    with Rows.open(ScoreRoot.at(root)) as rows:
        for conditions in ({"split": "test"}, {"label": "1"}, {"age_from": 5.0}, {"sex": "F"}, {"sort": "patient_age"}):
            with pytest.raises(ConfigError, match="--studies TABLE"):
                rows.page(Filter(**conditions))


def test_a_label_of_a_finding_that_the_table_does_not_label_is_refused(rows):
    with pytest.raises(ConfigError, match="no labels of Pleural_Effusion; it labels Pneumonia"):
        rows.page(Filter(finding="Pleural_Effusion", label="1"))


def test_an_unknown_run_is_refused(rows):
    with pytest.raises(ConfigError, match="no complete run of these models; the newest is 2026-11-28"):
        rows.page(Filter(run_id="2026-11-29"))


def test_a_study_is_its_newest_row_with_what_the_table_says(rows, root):
    newest = {each["study_id"]: each for each in read_scores(root).to_pylist()}
    for study_id in newest:
        study = rows.study(study_id)
        pictures = {"masks", "heatmaps", "structures"}
        assert {name: study[name] for name in newest[study_id] if name not in pictures} == {
            name: value for name, value in newest[study_id].items() if name not in pictures
        }
        assert not pictures & set(study)
    assert rows.study("b2").items() >= {"run_id": "2026-11-28", "split": "test", "patient_sex": "M"}.items()
    assert rows.study("no such study") is None
    assert rows.pictures("no such study") is None


def test_the_pictures_of_a_study_are_those_of_its_views(tmp_path):
    heatmaps = [[{"finding": "Pneumonia", "png": b"heat"}], None]
    structures = [None, [{"name": "heart", "png": b"heart"}]]
    drawn = row("a1", positions=("PA", "LL"), masks=[b"lungs", None], heatmaps=heatmaps, structures=structures)
    publish(str(tmp_path), "2026-11-27", [row("a0", masks=[b"other"]), drawn, row("a2")])
    with Rows.open(ScoreRoot.at(str(tmp_path))) as rows:
        pictures = rows.pictures("a1")
        assert pictures.masks == [b"lungs", None]
        assert pictures.heatmaps == [[("Pneumonia", b"heat")], []]
        assert pictures.structures == [[], [("heart", b"heart")]]
        assert (rows.pictures("a2").masks, rows.pictures("a2").heatmaps) == ([], [])


def test_the_studies_of_a_patient_come_with_the_newest_run_first(rows):
    assert [each["study_id"] for each in rows.of_patient("bob")] == ["b2", "b1"]
    assert rows.of_patient("nobody") == []


def test_the_largest_disagreements_come_first_with_the_members(rows):
    page = rows.disagreeing(Filter(finding="Pneumonia"))
    assert page.rows[0]["study_id"] == "b1"
    assert page.total == 6  # two studies have no numbers
    assert page.rows[0]["member_probs_Pneumonia"] == pytest.approx([0.1, 0.6])
    assert "member_probs_Pleural_Effusion" not in page.rows[0]
    assert rows.disagreeing(Filter()).rows[1]["member_probs_Pleural_Effusion"] == pytest.approx([0.7, 0.9])


def test_the_summary_sets_the_newest_run_beside_the_run_before(rows):
    summary = rows.summary()
    assert (summary.studies, summary.runs) == (8, 2)
    tonight, before = summary.tonight, summary.before
    assert (tonight.run_id, tonight.studies, tonight.studies_per_second) == ("2026-11-28", 3, 2.0)
    assert tonight.counts == {("failed", "missing"): 1, ("ok", None): 1, ("partial", None): 1}
    assert tonight.flags == {"lungs_cropped": 1, "ood": 1}
    assert tonight.findings[0] == FindingFigures("Pneumonia", 2, 1, pytest.approx(0.475))
    assert tonight.findings[0].positive_fraction == 0.5
    # b2 was scored again since, and stays among the figures of the run that first met it
    assert (before.run_id, before.studies, before.studies_per_second) == ("2026-11-27", 6, 1.5)
    assert before.counts == {("ok", None): 4, ("failed", "truncated"): 1, ("rejected", "blank"): 1}
    assert before.findings[1] == FindingFigures("Pleural_Effusion", 4, 2, pytest.approx(0.3875))


def test_failures_are_grouped_by_reason_with_what_to_do_and_examples(rows):
    groups = {group.reason: group for group in rows.failures()}
    assert set(groups) == {"missing", "blank"}
    missing = groups["missing"]
    assert (missing.status, missing.studies, missing.is_retryable) == ("failed", 1, True)
    assert missing.meaning == "not where the study table says"
    assert "the next night tries again" in missing.what_to_do
    (example,) = missing.examples
    assert (example["study_id"], example["detail"], example["run_id"]) == ("d2", "d2: missing", "2026-11-28")
    assert example["views"][0]["url"] == "/cxr/d2"


def test_a_form_can_offer_what_the_root_holds(rows):
    choices = rows.choices()
    assert choices.flags == ("lungs_cropped", "ood")
    assert choices.reasons == ("blank", "missing")
    assert choices.run_ids == ("2026-11-28", "2026-11-27")
    assert choices.sexes == ("F", "M")


# ---- roots of other kinds ---------------------------------------------------------------------------------------


def test_a_run_that_is_not_complete_is_not_shown(tmp_path):
    publish(str(tmp_path), "2026-11-27", FIRST)
    publish(str(tmp_path), "2026-11-28", SECOND, is_complete=False)
    with Rows.open(ScoreRoot.at(str(tmp_path))) as rows:
        assert "d1" not in ids(rows)
        assert rows.study("d1") is None
        assert rows.summary().before is None


def test_a_root_without_a_complete_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no complete run there; expected the --out of cxrpipe score"):
        Rows.open(ScoreRoot.at(str(tmp_path)))


def test_a_root_of_several_models_asks_for_a_fingerprint(tmp_path):
    two_nights(str(tmp_path))
    publish(str(tmp_path), "2026-11-29", [row("a1", {"Mass": (0.1, 0.1)})], fingerprint="other", findings=("Mass",))
    root = ScoreRoot.at(str(tmp_path))
    with pytest.raises(ConfigError, match="name one --fingerprint: ffff"):
        Rows.open(root)
    with Rows.open(root, FINGERPRINT) as rows:
        assert ids(rows) == BY_PROB
    with Rows.open(root, "other") as rows:
        assert (rows.findings, ids(rows)) == (("Mass",), ["a1"])


@pytest.mark.parametrize("older_first", [True, False])
def test_runs_of_several_versions_are_united_by_name(anywhere, older_first):
    lacking = ["flags", "structures", "disagreement_Pneumonia", "disagreement_Pleural_Effusion"]
    nights = ["2026-11-27", "2026-11-28"]
    old, new = nights if older_first else nights[::-1]
    publish(anywhere, old, [row("old", {"Pneumonia": (0.9, 0.9)})], without=lacking)
    publish(anywhere, new, [row("new", {"Pneumonia": (0.1, 0.5)}, flags=["ood"])])
    with Rows.open(ScoreRoot.at(anywhere)) as rows:
        old_row, new_row = rows.page(Filter()).rows
        assert (old_row["study_id"], old_row["flags"], old_row["disagreement_Pneumonia"]) == ("old", None, None)
        assert (new_row["flags"], new_row["disagreement_Pneumonia"]) == (["ood"], pytest.approx(0.2))
        assert rows.study("old")["disagreement_Pneumonia"] is None
        assert rows.pictures("old").structures == []


def test_a_column_that_no_run_has_is_null(tmp_path):
    publish(str(tmp_path), "2026-11-27", [row("a1", {"Pneumonia": (0.9, 0.9)})], without=["flags", "n_views_ok"])
    with Rows.open(ScoreRoot.at(str(tmp_path))) as rows:
        (listed,) = rows.page(Filter()).rows
        assert (listed["flags"], listed["n_views_ok"], listed["prob_Pneumonia"]) == (None, None, pytest.approx(0.9))


def test_findings_and_folders_with_any_letter_are_read(tmp_path):
    finding = 'A "b"; DROP TABLE rows --'
    root = str(tmp_path / "it's [a]*?")
    publish(
        root, "2026-11-27", [row("a1", {finding: (0.9, 0.9)}), row("a2", {finding: (0.1, 0.1)})], findings=[finding]
    )
    with Rows.open(ScoreRoot.at(root)) as rows:
        asked = Filter.of_query({"finding": finding, "prob_from": "0.5"}, rows.findings)
        (listed,) = rows.page(asked).rows
        assert (listed["study_id"], listed[f"prob_{finding}"]) == ("a1", pytest.approx(0.9))


def test_a_segmenter_alone_gives_a_list_without_findings(tmp_path):
    publish(str(tmp_path), "2026-11-27", [row("a2"), row("a1")], findings=())
    with Rows.open(ScoreRoot.at(str(tmp_path))) as rows:
        assert ids(rows) == ["a1", "a2"]
        assert rows.summary().tonight.findings == ()


# ---- while it is open -------------------------------------------------------------------------------------------


def rewrite(url: str, without: Sequence[str]) -> None:
    """Write a published file anew without some studies, as `forget` does."""
    table = pq.read_table(io.BytesIO(storage.read(url)))
    kept = [place for place, study_id in enumerate(table["study_id"].to_pylist()) if study_id not in without]
    data = io.BytesIO()
    pq.write_table(table.take(pa.array(kept)), data)
    storage.write(url, data.getvalue())


def test_a_run_that_is_completed_is_taken_in(tmp_path):
    publish(str(tmp_path), "2026-11-27", FIRST)
    with Rows.open(ScoreRoot.at(str(tmp_path))) as rows:
        assert rows.page(Filter()).total == 6
        publish(str(tmp_path), "2026-11-28", SECOND)
        rows.refresh()
        assert ids(rows) == BY_PROB
        assert rows.summary().tonight.run_id == "2026-11-28"


def test_a_forgotten_patient_is_nowhere_even_where_rows_of_the_patient_are_left(tmp_path):
    root = ScoreRoot.at(two_nights(str(tmp_path)))
    with Rows.open(root) as rows:
        assert rows.study("a1") is not None
        root.forget("ann")
        rows.refresh()
        assert (rows.study("a1"), rows.pictures("a1"), rows.of_patient("ann")) == (None, None, [])
        assert ids(rows) == [study_id for study_id in BY_PROB if study_id not in ("a1", "a2")]
        assert rows.summary().before.studies == 4


def test_a_file_that_was_written_anew_never_shows_another_study(tmp_path):
    root = ScoreRoot.at(str(tmp_path))
    url = publish(root.url, "2026-11-27", FIRST)
    with Rows.open(root) as rows:
        rewrite(url, without=["a1", "a2"])
        assert rows.study("c1")["study_id"] == "c1"
        assert rows.study("a1") is None
        assert ids(rows) == ["c1", "b1", "b2", "c2"]


def test_threads_share_the_rows(rows):
    def work(number: int) -> tuple[list[str], str]:
        study_id = BY_PROB[number % len(BY_PROB)]
        return ids(rows, page=1), rows.study(study_id)["study_id"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(work, range(64)))
    assert answers == [(BY_PROB, BY_PROB[number % len(BY_PROB)]) for number in range(64)]


def test_no_query_can_leave_the_database(rows, tmp_path):
    import duckdb

    secret = tmp_path / "secret.csv"
    secret.write_text("word\nsecret\n")
    database = rows._snapshot.loaded
    for query in (f"SELECT * FROM read_csv('{secret}')", f"COPY rows TO '{tmp_path}/out.csv'", "INSTALL httpfs"):
        with pytest.raises(duckdb.PermissionException):
            database.answers(query)
    with pytest.raises(duckdb.InvalidInputException, match="configuration"):
        database.answers("SET enable_external_access = true")


def test_closing_leaves_nothing_in_the_temporary_folder(root, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Rows.open(ScoreRoot.at(root)) as rows:
        rows.page(Filter())
        assert any(tmp_path.iterdir())
    assert not any(tmp_path.iterdir())
    assert Path(root).is_dir()
