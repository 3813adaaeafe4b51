"""Folds by patient: every patient is held out once, and never taught."""

import json
from dataclasses import replace
from pathlib import Path

import builders
import pytest

from cxrpipe.archives.index import Source
from cxrpipe.config import TrainConfig
from cxrpipe.errors import ConfigError
from cxrpipe.records import Study, View, splits
from cxrpipe.records.splits import keeps_apart
from cxrpipe.records.study_table import StudyTable
from cxrpipe.training.folds import hold_out


def studies(patients: int, each: int = 2, known: bool = True) -> list[Study]:
    """Every tenth patient in the test split."""
    return [
        Study(
            study_id=f"{patient}_{number}",
            patient_id=f"p{patient}" if known else None,
            views=(View(url=f"/{patient}_{number}.png"),),
            split="test" if patient % 10 == 0 else "train",
            labels={"A": float(patient % 2)},
        )
        for patient in range(patients)
        for number in range(each)
    ]


def held_out(table: StudyTable, scratch: Path, fold: int, folds: int = 3, **settings: object) -> StudyTable:
    scratch.mkdir(exist_ok=True)
    wanted = {"task": "classify", "studies": table.url, "out": "o", "folds": folds, "fold": fold} | settings
    return hold_out(TrainConfig(**wanted), Source(table, scratch)).table  # type: ignore[arg-type]


def patients(table: StudyTable, split: str) -> set[str]:
    return {study.patient_id or study.study_id for study in table.studies(split)}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    return builders.table_of(tmp_path_factory.mktemp("folds"), studies(60))


def test_every_patient_of_train_and_valid_is_held_out_once_and_test_never_seen(table, tmp_path):
    folds = [held_out(table, tmp_path / str(fold), fold) for fold in range(3)]
    out = [patients(fold, "test") for fold in folds]
    assert [len(own) for own in out] == [18, 18, 18]
    assert set.union(*out) == patients(table, "train")
    for fold, own in zip(folds, out, strict=True):
        assert not own & (patients(fold, "train") | patients(fold, "valid"))
        assert not patients(fold, "train") & patients(fold, "valid")
        assert patients(fold, "valid")
        assert fold.rows == 2 * 54


def test_all_studies_take_part_where_that_is_asked_for(table, tmp_path):
    folds = [held_out(table, tmp_path / str(fold), fold, fold_over="all") for fold in range(3)]
    assert set.union(*(patients(fold, "test") for fold in folds)) == {f"p{number}" for number in range(60)}


@pytest.mark.parametrize("fold_over", ["development", "all"])
def test_a_ninth_of_the_others_chooses_the_epoch_however_the_table_was_split(tmp_path, fold_over):
    """Drawn by the hash that split the table, it would lack those whom that hash had put into the test split."""
    own = [replace(one, split=splits.assign(None, str(one.patient_id), seed=0)) for one in studies(300)]
    fold = held_out(builders.table_of(tmp_path, own), tmp_path, 0, folds=5, split_seed=0, fold_over=fold_over)
    chooses, teaches = (len(patients(fold, split)) for split in ("valid", "train"))
    assert chooses == -(-(chooses + teaches) // 9)


def test_a_fold_of_train_may_choose_and_the_valid_split_be_held_out(tmp_path):
    own = [replace(one, split="valid") if one.patient_id == "p7" else one for one in studies(60)]
    table = builders.table_of(tmp_path, own)
    folds = [held_out(table, tmp_path / str(fold), fold, fold_over="train") for fold in range(3)]
    assert all(patients(fold, "test") == {"p7"} for fold in folds)
    assert set.union(*(patients(fold, "valid") for fold in folds)) == patients(table, "train")
    assert not any(patients(fold, "valid") & patients(fold, "train") for fold in folds)


def test_the_same_seed_gives_the_same_fold_and_another_one_another(table, tmp_path):
    first, same, other = (
        patients(held_out(table, tmp_path / name, 0, split_seed=seed), "test")
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == same
    assert first != other


def test_a_fold_is_a_study_table_with_all_that_the_table_says(table, tmp_path):
    fold = held_out(table, tmp_path, 0)
    assert fold.findings == table.findings
    assert fold.metadata["archive"] == table.metadata["archive"]
    assert fold.seek_points == table.seek_points
    assert json.loads(fold.metadata["findings"]) == ["A"]


def test_where_no_patient_is_known_folds_are_of_studies_and_that_is_said(tmp_path, capsys):
    own = builders.table_of(tmp_path, studies(30, each=1, known=False))
    assert len(patients(held_out(own, tmp_path / "scratch", 0), "test")) == 9
    assert "27 of 27 studies name no patient" in capsys.readouterr().err


def test_fewer_patients_than_folds_are_refused(tmp_path):
    own = builders.table_of(tmp_path, studies(4))
    with pytest.raises(ConfigError, match="3 patients cannot be cut into 5 folds"):
        held_out(own, tmp_path / "scratch", 0, folds=5)


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (3, 3), (3, -1)])
def test_a_fold_that_there_is_not_is_refused(folds, fold):
    with pytest.raises(ConfigError, match=f"fold {fold} of {folds} folds"):
        TrainConfig(task="classify", studies="t", out="o", folds=folds, fold=fold)


def test_folds_differ_by_one_patient_at_most_and_not_with_the_order():
    keys = [f"k{number}" for number in range(100)]
    fold_of = splits.folds(keys, 7, seed=3)
    sizes = [list(fold_of.values()).count(fold) for fold in range(7)]
    assert max(sizes) - min(sizes) <= 1
    assert splits.folds(reversed(keys), 7, seed=3) == fold_of


@pytest.mark.parametrize(
    ("trained", "judged", "apart"),
    [
        ("0", "0", True),
        ("7", "0", False),
        ("0; fold 1 of 3 over development, seed 0", "0", True),
        ("0; fold 1 of 3 over all, seed 0", "0", False),
        ("0; fold 1 of 3 over all by acquisition, seed 0", "0", False),
        ("0; fold 1 of 3 over development by acquisition, seed 0", "0", True),
        ("0; fold 1 of 3 over all, seed 0", "0; fold 1 of 3 over all, seed 0", True),
        ("0; fold 1 of 3 over all, seed 0", "0; fold 2 of 3 over all, seed 0", False),
        ("0", "0; fold 1 of 3 over development, seed 0", False),
    ],
)
def test_a_model_is_judged_on_what_it_has_not_seen_alone(trained, judged, apart):
    assert keeps_apart(trained, judged) is apart


def test_a_fold_says_how_it_was_cut(table, tmp_path):
    fold = held_out(table, tmp_path, 2, split_seed=5)
    assert fold.metadata["split_seed"] == "7; fold 2 of 3 over development, seed 5"
