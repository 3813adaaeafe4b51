"""`predict`: files named by hand, a table, scores.parquet, and a picture of each."""

import contextlib
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import classifier, png, radiograph
from dicoms import dicom
from rich.cells import cell_len

from cxrpipe import storage
from cxrpipe.archives.named_files import studies_of
from cxrpipe.config import PredictConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.models.folder import ModelFolder
from cxrpipe.programs import predict as predict_files
from cxrpipe.report.files_table import lines_of

pytestmark = pytest.mark.usefixtures("one_thread")
BLANK = png(np.zeros((64, 64), np.uint8))
FILES = {"good.png": png(radiograph()), "blank.png": BLANK, "broken.png": png(radiograph())[:900], "zero.dcm": b""}
REASONS = {"good.png": None, "blank.png": "blank", "broken.png": "truncated", "zero.dcm": "empty"}


@pytest.fixture
def decoded_here(monkeypatch):
    """Files are decoded in this process: a child takes half a second to start."""
    monkeypatch.setattr(predict_files, "Isolated", lambda decode, *_: contextlib.nullcontext(decode))


def put(folder: Path, files: dict[str, bytes]) -> list[str]:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return [str(folder / name) for name in files]


def predicted(files: list[str], out: Path, **settings: object) -> tuple[int, list[dict]]:
    """Exit status, and the rows of scores.parquet."""
    status = predict_files.run(PredictConfig(files=tuple(files), out=str(out), **settings))  # type: ignore[arg-type]
    return status, pq.read_table(out / "scores.parquet").to_pylist()


@pytest.mark.parametrize("names", [["good.png"], ["blank.png"], ["broken.png"], ["good.png", "blank.png"], [*FILES]])
@pytest.mark.parametrize("with_models", ["classifier", "segmenter", "both"])
@pytest.mark.usefixtures("decoded_here")
def test_models_alone_a_segmenter_alone_and_both_score_any_files(names, with_models, small, lungs, tmp_path, capsys):
    models = () if with_models == "segmenter" else (small.url,)
    segmenter = () if with_models == "classifier" else (lungs.url,)
    files = put(tmp_path, {name: FILES[name] for name in names})
    status, rows = predicted(files, tmp_path / "out", models=models, segmenter=segmenter)
    assert [row["reason"] for row in rows] == [REASONS[name] for name in names]
    assert status == (3 if {"broken.png", "zero.dcm"} & {*names} else 0)
    scored = [row["status"] == "ok" for row in rows]
    assert [row["masks"] is not None for row in rows] == [each and segmenter != () for each in scored]
    printed = capsys.readouterr().out
    for name, row in zip(names, rows, strict=True):
        assert cv2.imread(str(tmp_path / "out" / f"{Path(name).stem}.png")) is not None
        if models:
            assert (row["prob_Pneumonia"] is not None) == (REASONS[name] is None)
        if row["reason"]:
            assert f"{Path(name).stem}: {row['reason']}: {row['detail']}" in printed


@pytest.mark.usefixtures("decoded_here")
def test_a_heat_map_is_drawn_beside_a_film_whose_finding_reaches_its_threshold(tmp_path, lungs, capsys):
    low = {"thresholds": {"Pneumonia": 0.0, "Cardiomegaly": 1.0}, "architecture": "shufflenet_v2_x0_5"}
    models = tuple(classifier(tmp_path / name, seed=seed, **low).url for seed, name in enumerate("ab"))
    files = put(tmp_path, {"one.png": FILES["good.png"], "two.png": BLANK})
    _, (row, _) = predicted(files, tmp_path / "out", models=models, segmenter=(lungs.url,))
    printed = capsys.readouterr().out
    assert f"{row['prob_Pneumonia']:.2f} (2/2)*" in printed
    assert f"{row['prob_Cardiomegaly']:.2f} (0/2) " in printed
    with_map, without = (cv2.imread(str(tmp_path / "out" / f"{name}.png")) for name in ("one", "two"))
    assert with_map.shape[1] > without.shape[1]
    assert with_map.std() > 1


def test_files_are_decoded_in_another_process_for_their_pictures_too(small, tmp_path, monkeypatch):
    monkeypatch.setattr("cxrpipe.images.radiographs.decode", lambda *_, **__: pytest.fail("decoded in this process"))
    status, (row,) = predicted(put(tmp_path, {"one.png": FILES["good.png"]}), tmp_path / "out", models=(small.url,))
    assert (status, row["status"]) == (0, "ok")
    assert cv2.imread(str(tmp_path / "out" / "one.png")).std() > 10


@pytest.mark.usefixtures("decoded_here")
def test_a_number_that_tells_two_files_of_one_name_apart_is_explained(small, tmp_path, capsys):
    files = put(tmp_path, dict.fromkeys(["a/x.png", "b/x.png"], FILES["good.png"]))
    predicted(files, tmp_path / "out", models=(small.url,))
    assert f"\nx_2: {files[1]}\n" in capsys.readouterr().out


@pytest.mark.usefixtures("decoded_here")
def test_a_picture_that_cannot_be_written_does_not_cost_the_scores(small, tmp_path, capsys):
    (tmp_path / "out" / "good.png").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"good\.png: no place for a file"):
        predicted(put(tmp_path, FILES), tmp_path / "out", models=(small.url,))
    assert pq.read_table(tmp_path / "out" / "scores.parquet").num_rows == len(FILES)
    assert "blank: blank: " in capsys.readouterr().out


NAMES = {
    "a film.png": "a film",
    "[bold]red.png": "[bold]red",
    "Röntgen 胸部 ✓.png": "Röntgen 胸部 ✓",
    "$x_$ and $ \\frac{.png": "$x_$ and $ \\frac{",
    "two\nlines\x1b[31m.png": "two\\nlines\\x1b[31m",
    os.fsdecode(b"M\xfcller.png"): "M\\xfcller",
    "1.2.840.113": "1.2.840.113",
}


@pytest.mark.usefixtures("decoded_here")
def test_names_are_printed_and_kept_as_they_are(lungs, tmp_path, capsys):
    files = put(tmp_path / "films", dict.fromkeys(NAMES, FILES["good.png"]) | {"[broken].png": b"junk"})
    status, rows = predicted(files, tmp_path / "out", segmenter=(lungs.url,))
    assert status == 3
    assert [row["study_id"] for row in rows] == [*NAMES.values(), "[broken]"]
    printed = capsys.readouterr().out
    for row in rows:
        assert f"\n{row['study_id']}  " in printed
        assert (tmp_path / "out" / f"{row['study_id']}.png").is_file()
    assert f"[broken]: not_an_image: {files[-1]}: starts with" in printed


def test_a_request_that_is_refused_does_not_wait_for_torch():
    heavy = "{'torch', 'ray', 'matplotlib', 'scipy', 'sklearn'}"
    code = f"import sys, cxrpipe.programs.predict; print(sorted({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- what a name leads to -------------------------------------------------------------------------------------


def ids(*files: object, out: object = "nowhere") -> list[str]:
    return [study.study_id for study in studies_of([str(file) for file in files], storage.normalise(str(out)))]


def test_a_folder_stands_for_its_images_in_natural_order(anywhere):
    films = ["10.png", "2.JPG", "1.2.840.7", "more/deep/3.dcm", "more/UNKNOWN", ".hidden.png", "@eaDir/2.JPG", "a.txt"]
    contents = {"1.2.840.7": dicom(radiograph()), "more/UNKNOWN": b"no image"}
    for name in films:
        storage.write(storage.join(anywhere, name), contents.get(name, b"x"))
    assert ids(anywhere) == ["1.2.840.7", "2", "10", "3"]
    assert ids(storage.join(anywhere, "more"), storage.join(anywhere, "a.txt")) == ["3", "a.txt"]


def test_pictures_drawn_before_are_no_films(tmp_path):
    put(tmp_path, {"a.png": b"x", "predicted/a.png": b"x"})
    assert ids(tmp_path, out=tmp_path / "predicted") == ["a"]


def test_a_file_named_twice_is_one_study(tmp_path):
    (one, _) = put(tmp_path, {"a.png": b"x", "b.png": b"x"})
    assert ids(one, f"{tmp_path}/./a.png", tmp_path) == ["a", "b"]


def test_files_of_one_name_get_numbers_that_no_other_file_has(tmp_path):
    files = put(tmp_path, dict.fromkeys(["x.png", "x_2.png", "a/x.png", "a/x.dcm", "b/x.png"], b"x"))
    assert ids(*files) == ["x", "x_2", "x_3", "x_4", "x_5"]


def test_a_name_that_is_too_long_for_a_picture_loses_its_middle(tmp_path):
    files = put(tmp_path, dict.fromkeys([f"{'ü' * 60}{'x' * 120}{end}.png" for end in "12"], b"x"))
    first, second = ids(*files)
    assert len(first.encode()) < 190
    assert first[-5:] == "xxxx1"
    assert second[-5:] == "xxxx2"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere.png", r"nowhere\.png: no such file or folder"),
        ("y" * 300, "cannot be opened|no such file"),
        ("empty", "empty: an empty folder"),
        ("texts", "texts: 1 files, and none is an image"),
        ("set.tar.gz", r"an archive; score it: cxrpipe score --archive .*set\.tar\.gz"),
        ("set.7z", r"a 7-Zip archive, which cannot be read at random; convert it: 7z x set.7z"),
        ("studies.parquet", r"a table; score its studies: cxrpipe score --studies .*studies\.parquet"),
    ],
)
def test_a_wrong_name_is_refused_before_any_work(name, says, tmp_path, monkeypatch):
    put(tmp_path, {"a.png": b"x", "texts/a.txt": b"x", "set.tar.gz": b"x", "set.7z": b"x", "studies.parquet": b"x"})
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(predict_files, "open_ensemble", lambda *_, **__: pytest.fail("models were opened"))
    with pytest.raises(ConfigError, match=says):
        predicted([str(tmp_path / "a.png"), str(tmp_path / name)], tmp_path / "out", models=("m",))
    assert not (tmp_path / "out").exists()


def test_an_out_that_cannot_be_a_folder_is_refused_before_any_work(small, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_files, "_load", lambda *_: pytest.fail("networks were loaded"))
    (file,) = put(tmp_path, {"a.png": b"x"})
    for out in (Path(file), Path(file) / "below"):
        with pytest.raises(ConfigError, match=r"cannot be made a folder.*--out"):
            predicted([file], out, models=(small.url,))


# ---- the table ------------------------------------------------------------------------------------------------


def row_of(study_id: str, findings: list[str], **more: object) -> dict:
    own = ({f"prob_{each}": 0.5, f"votes_{each}": 1, f"consensus_{each}": True} for each in findings)
    columns = {name: value for each in own for name, value in each.items()}
    members = {f"member_probs_{each}": [0.5, 0.4] for each in findings}
    facts = {
        "status": "ok",
        "reason": None,
        "detail": None,
        "flags": [],
        "views": [{"url": study_id, "lung_fraction": 0.25}],
    }
    return {"study_id": study_id} | columns | members | facts | more


def ensemble(model: ModelFolder, findings: list[str], *segmenters: ModelFolder) -> Ensemble:
    return Ensemble((model._replace(card=replace(model.card, findings=tuple(findings))),), segmenters)


@pytest.mark.parametrize("width", [80, 60])
def test_the_table_fits_the_terminal_with_long_names_and_many_findings(width, small, lungs):
    findings = ["Pleural_Thickening", "Enlarged_Cardiomediastinum", *(f"Finding_{each}" for each in range(20))]
    long = ["1.2.276.0.7230010.3.1.4.8323329." + "9" * 30 + end for end in "ab"] + ["胸部レントゲン写真" * 5, "short"]
    rows = [row_of(name, findings) for name in long]
    lines = [
        *itertools.takewhile(
            lambda line: "Probability" not in line, lines_of(rows, ensemble(small, findings, lungs), width)
        )
    ]
    assert len(lines) == 1 + len(rows)
    assert max(map(cell_len, lines)) <= width
    assert lines[1].startswith("1.2.276")
    assert "a  ok" in lines[1]
    assert "b  ok" in lines[2]
    assert lines[-1].endswith("25%")


def test_the_findings_shown_are_the_most_probable(small):
    findings = [f"Finding_{each}" for each in range(30)]
    row = row_of("a", findings) | {"prob_Finding_17": 0.9}
    header, _, _, left = lines_of([row], ensemble(small, findings), 80)
    shown = header.split()[2:]
    assert "Finding_17" in shown
    assert left.startswith(f"{30 - len(shown)} more findings")
