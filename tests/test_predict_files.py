"""`predict`: a few files, a table, and a picture of each."""

import cv2
import pyarrow.parquet as pq
import pytest
from builders import classifier, png, radiograph, segmenter

from cxrpipe.config import PredictConfig
from cxrpipe.programs import predict as predict_files


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("files")
    for name, data in (
        ("one.png", png(radiograph())),
        ("more/one.png", png(radiograph(1))),
        ("junk.dcm", b"junk"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return [str(folder / name) for name in ("one.png", "more/one.png", "junk.dcm", "nowhere.png")]


def test_every_file_is_in_the_table_and_has_a_picture(files, tmp_path, capsys):
    low = {"thresholds": {"Pneumonia": 0.0, "Cardiomegaly": 1.0}}
    models = tuple(classifier(tmp_path / name, seed=seed, **low).url for seed, name in enumerate("ab"))
    asked = PredictConfig(
        files=tuple(files), models=models, segmenter=segmenter(tmp_path / "u").url, out=str(tmp_path / "out")
    )
    assert predict_files.run(asked) == 0
    rows = pq.read_table(tmp_path / "out" / "scores.parquet").to_pylist()
    assert [row["study_id"] for row in rows] == ["one", "one_2", "junk", "nowhere"]
    assert [row["reason"] for row in rows] == [None, None, "not_an_image", "missing"]
    printed = capsys.readouterr().out
    first = rows[0]
    assert f"{first['prob_Pneumonia']:.2f} (2/2)*" in printed
    assert f"{first['prob_Cardiomegaly']:.2f} (0/2) " in printed
    pictures = [cv2.imread(str(tmp_path / "out" / f"{row['study_id']}.png")) for row in rows]
    assert all(picture.std() > 1 for picture in pictures)
    assert pictures[0].shape[1] > pictures[2].shape[1]  # a heat map beside the view
