"""Films of scored studies on demand: the pixels of the file, a bounded cache, and a reason where there is no film."""

import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from scored_films import FILES, MARKUP, Archive, scored_archive

from cxrpipe import storage
from cxrpipe.errors import StudyError
from cxrpipe.records import complete_runs
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.sheet import LUNG, overlaid
from cxrpipe.review import layers, listed
from cxrpipe.review.cache import ByteCache
from cxrpipe.review.pictures import Films, hex_lines, reason_picture


@pytest.fixture(scope="module")
def films(archive):
    films = Films(archive.root, None, children=1)
    yield films
    films.close()


def row_of(archive: Archive, study_id: str) -> dict:
    row, run_id = complete_runs(archive.root.url).find(study_id)
    return row | {"run_id": run_id}


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(("study_id", "number"), [("p1/a", 0), ("p1/a", 1), (MARKUP, 0)])
def test_a_film_has_the_pixels_of_its_file(archive, films, study_id, number):
    picture = films.film(row_of(archive, study_id), number)
    assert (picture.media_type, picture.problem) == ("image/png", None)
    np.testing.assert_array_equal(decoded(picture.data), decoded(FILES[study_id][number]))


def test_a_thumbnail_is_small_and_of_the_first_scored_view(archive, films):
    picture = films.thumbnail(row_of(archive, "half"))
    small = decoded(picture.data)
    assert picture.media_type == "image/jpeg"
    assert max(small.shape) == 192
    film = cv2.resize(decoded(FILES["half"][0]), small.shape[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(small.astype(float) - film).mean() < 12  # noise, as a JPEG


def test_a_second_look_reads_nothing(archive, monkeypatch):
    films, row = Films(archive.root, None, children=1), row_of(archive, "p1/b")
    first = films.film(row, 0)
    monkeypatch.setattr("cxrpipe.review.pictures.shown", lambda *_: pytest.fail("decoded again"))
    assert films.film(row, 0) == first
    films.close()


def test_a_file_that_is_no_image_becomes_a_picture_with_the_reason(archive, films):
    picture = films.film(row_of(archive, "half"), 1)
    assert picture.media_type == "image/svg+xml"
    assert picture.problem.startswith("not an image: ")
    assert b"not an image" in picture.data


def test_a_file_that_is_gone_and_a_list_that_is_gone_are_told(tmp_path):
    small = scored_archive(tmp_path)
    films, row = Films(small.root, None, children=1), row_of(small, "p1/b")
    (tmp_path / "archive" / "1_0.png").unlink()
    assert films.film(row, 0).problem.startswith("missing: ")
    storage.delete(small.root.run(row["run_id"]).studies)
    assert "start review with --studies" in films.film(row, 0).problem
    films.close()


def test_a_table_with_another_version_of_the_study_gives_no_film_of_it(archive, films):
    row = row_of(archive, "p1/b") | {"study_digest": "of another night"}
    assert "its files have changed since it was scored" in films.film(row, 0).problem


def test_a_table_whose_rows_move_while_it_is_open_is_read_anew(archive, tmp_path):
    url, rows = str(tmp_path / "studies.parquet"), storage.read_table(archive.table.url)
    storage.write_table(url, rows)
    films, row = Films(archive.root, StudyTable(url), children=1), row_of(archive, "p1/b")
    film = films.film(row, 0)
    storage.write_table(url, rows.take(np.arange(rows.num_rows)[::-1]))
    assert films.film(row, 0, "xrv") == film  # of 8 bits: the same under every intensity
    films.close()


def test_lists_that_hold_too_many_studies_are_closed_but_for_the_last(archive, monkeypatch):
    monkeypatch.setattr(listed, "_MOST_STUDIES", len(FILES))
    lists, row = listed.Listed(archive.root, archive.table), row_of(archive, "p1/b")
    assert lists.find(row).study.study_id == "p1/b"
    with pytest.raises(StudyError):  # looks into the table, then into the list of the run
        lists.find(row | {"study_digest": "other"})
    assert lists.find(row).study.study_id == "p1/b"
    assert len(lists._opened) == 1
    lists.close()


def test_messages_under_pseudonyms_name_no_object(archive):
    films = Films(archive.root, None, pseudonymised=True, children=1)
    picture = films.film(row_of(archive, "half"), 1)
    assert picture.problem == "not an image"
    films.close()


def test_many_threads_get_the_same_films(archive, films):
    rows = [row_of(archive, study_id) for study_id in ("p1/a", "p1/b", MARKUP)]
    start = threading.Barrier(6)

    def look(place: int) -> bytes:
        start.wait()
        return films.film(rows[place % 3], 0, "xrv").data

    with ThreadPoolExecutor(6) as threads:
        data = list(threads.map(look, range(6)))
    assert data[:3] == data[3:]
    assert len(set(data)) == 3


def test_the_first_bytes_of_a_file_are_read(archive, films):
    assert films.head(row_of(archive, "junk"), 0) == FILES["junk"][0]
    with pytest.raises(StudyError, match="its files have changed"):
        films.head(row_of(archive, "junk") | {"study_digest": "other"}, 0)


def test_bytes_are_shown_as_numbers_and_letters():
    assert hex_lines(b"\x89PNG\r\n\x1a\n<b> of it\xff").splitlines() == [
        "00000000  89 50 4e 47 0d 0a 1a 0a 3c 62 3e 20 6f 66 20 69  |.PNG....<b> of i|",
        f"00000010  {'74 ff':47}  |t.|",
    ]


def test_markup_in_a_reason_is_text():
    svg = reason_picture("corrupt", "<script>alert(1)</script> & more").data.decode()
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    assert "&amp;" in svg


# ---- layers ---------------------------------------------------------------------------------------------------


def laid(film: np.ndarray, layer: bytes, opacity: float = 1.0) -> np.ndarray:
    """What a browser shows: a layer on a film, both in the same box."""
    drawn = decoded(layer)
    grey = cv2.cvtColor(cv2.resize(film, drawn.shape[1::-1], interpolation=cv2.INTER_LINEAR), cv2.COLOR_GRAY2BGR)
    share = opacity * drawn[..., 3:] / 255
    return grey * (1 - share) + drawn[..., :3] * share


def test_a_heat_map_lies_on_the_film_as_in_the_report(archive):
    row = row_of(archive, "p1/a")
    heat = row["heatmaps"][1][0]
    layer = layers.heat_png(heat["png"], row["views"][1])
    film = decoded(FILES["p1/a"][1])
    on_page = laid(film, layer, 0.55)
    square = decoded(heat["png"])
    rows, columns = round(64 * 60 / 90), 64
    inside = square[(64 - rows) // 2 : (64 - rows) // 2 + rows]
    in_report = overlaid(cv2.resize(film, on_page.shape[1::-1], interpolation=cv2.INTER_LINEAR), heat=inside)
    assert inside.shape == (rows, columns)
    assert np.abs(on_page - in_report).max() <= 2


def test_the_outline_of_a_mask_lies_on_the_film_as_in_the_report():
    mask = np.zeros((64, 64), bool)
    mask[20:44, 10:30] = True  # of a film of 60 x 90: the rows 11 to 53 are image
    layer = decoded(
        layers.mask_png(cv2.imencode(".png", mask * np.uint8(255))[1].tobytes(), {"rows_px": 60, "columns_px": 90})
    )
    assert layer.shape == (683, 1024, 4)
    rows, columns = np.nonzero(layer[..., 3] == 255)
    np.testing.assert_allclose([rows.min(), rows.max()], [(20 - 10.5) * 16, (44 - 10.5) * 16], atol=14)
    np.testing.assert_allclose([columns.min(), columns.max()], [10 * 16, 30 * 16], atol=14)
    blue = layer[layer[..., 3] == 255][:, :3]
    np.testing.assert_array_equal(np.unique(blue, axis=0), [LUNG])
    assert 0 < layer[340, 320, 3] < 64  # the area is faint
    assert layer[0, 0, 3] == 0


# ---- the cache ------------------------------------------------------------------------------------------------


def test_the_cache_keeps_what_was_used_last_within_its_bytes():
    cache = ByteCache(10)
    cache.put("a", b"1234")
    cache.put("b", b"1234")
    assert cache.get("a") == b"1234"
    cache.put("c", b"1234")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (b"1234", None, b"1234")
    assert cache.size_bytes == 8


def test_the_cache_keeps_no_value_that_is_larger_than_it():
    cache = ByteCache(10)
    cache.put("a", b"1234")
    cache.put("b", b"12345678901")
    assert (cache.get("a"), cache.get("b")) == (b"1234", None)


def test_a_value_that_is_put_again_counts_once():
    cache = ByteCache(10)
    for _ in range(5):
        cache.put("a", b"1234")
    assert cache.size_bytes == 4
