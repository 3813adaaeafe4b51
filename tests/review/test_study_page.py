"""The page of one study, asked over HTTP: what it says, what it may not say, and what is not there."""

import html
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from reading_room import Browser
from scored_films import MARKUP, Archive, scored_archive, served_room

from cxrpipe.records import complete_runs, read_scores
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.root import ScoreRoot


@contextmanager
def opened(root: ScoreRoot, table: StudyTable | None, pseudonymised: bool = False) -> Iterator[Browser]:
    """A reader who is in."""
    with served_room(root, table, pseudonymised) as address:
        reader = Browser(int(address.partition("127.0.0.1:")[2].partition("/")[0]))
        reader.enter(address)
        yield reader


@pytest.fixture(scope="module")
def reader(archive):
    with opened(archive.root, archive.table) as reader:
        yield reader


def page(reader: Browser, study_id: str, query: str = "") -> str:
    answer = reader.get(f"/study/{quote(study_id, safe='')}{query}")
    assert answer.status == 200, answer.text
    return answer.text


def words(text: str) -> str:
    """The text of a page, without its tags."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", text)))


def row_of(archive: Archive, study_id: str) -> dict:
    return complete_runs(archive.root.url).find(study_id)[0]


def test_the_page_shows_every_probability_threshold_and_vote(archive, reader):
    row, report = row_of(archive, "p1/a"), complete_runs(archive.root.url).newest
    shown = words(page(reader, "p1/a"))
    for finding in report.findings:
        assert f"{row[f'prob_{finding}']:.2f}" in shown
        for model, prob in zip(report.members, row[f"member_probs_{finding}"], strict=True):
            vote = "yes" if prob >= model.thresholds[finding] else "no"
            assert f" {prob:.3f} {model.thresholds[finding]:.3f} {vote} " in shown
        assert f"{row[f'votes_{finding}']} of 2" in shown


def test_the_page_says_where_the_row_comes_from(archive, reader):
    row, report = row_of(archive, "p1/a"), complete_runs(archive.root.url).newest
    shown = words(page(reader, "p1/a"))
    for fact in (row["fingerprint"], row["study_digest"], report.run_id, report.models[0].weights_sha256[:16]):
        assert fact in shown
    for view in row["views"]:
        assert view["url"] in shown
        assert view["sha256"] in shown


def test_every_view_has_its_film_its_lungs_and_its_heat_maps(archive, reader):
    row, text = row_of(archive, "p1/a"), page(reader, "p1/a")
    for number, heats in enumerate(row["heatmaps"]):
        films = re.findall(rf'src="(/film/{number}/[^"]+)"', text)
        layers = re.findall(rf'data-src="(/layer/\w+/{number}/[^"]+)"', text)
        assert len(films) == 1
        assert len(layers) == 1 + len(heats)
        sent = [reader.get(html.unescape(url)) for url in (*films, *layers)]
        assert [(answer.status, answer.headers["content-type"]) for answer in sent] == [(200, "image/png")] * len(sent)


def test_the_neighbours_in_the_list_keep_its_filter(reader):
    query = "?finding=Pneumonia&status=ok&sort=study_id&descending=0"
    text = page(reader, "p1/a", query)
    following = re.search(r'<a id="next"[^>]*href="([^"]+)"', text)[1]
    assert html.unescape(following) == f"/study/p1%2Fb{query}"
    back = re.search(r'<a id="previous"[^>]*href="([^"]+)"', page(reader, "p1/b", query))[1]
    assert html.unescape(back) == f"/study/p1%2Fa{query}"
    assert '<a id="previous"' not in text


def test_other_studies_of_the_patient_are_linked(reader):
    text = page(reader, "p1/a")
    of_patient = text[text.index("Other studies of the patient") :]
    assert '<a href="/study/p1%2Fb">' in of_patient
    assert 'href="/study/junk' not in of_patient
    assert "Other studies of the patient" not in page(reader, "half")


def test_a_study_id_with_markup_is_text(reader):
    text = page(reader, MARKUP)
    assert MARKUP not in text
    assert "<b>bold" not in text
    assert f"<h1>{html.escape(MARKUP, quote=False).replace(chr(34), '&#34;')}</h1>" in text
    film = html.unescape(re.search(r'src="(/film/0/[^"]+)"', text)[1])
    sent = reader.get(film)
    assert (sent.status, sent.headers["content-type"]) == (200, "image/png")


def test_a_failed_study_shows_its_first_bytes_and_what_to_do(reader):
    text = page(reader, "junk")
    assert "What to do: convert it; detail names the kind." in text
    assert "25 50 44 46 2d 31 2e 34" in text
    assert "|%PDF-1.4 no film|" in words(text)
    assert "<script>alert" not in text
    assert "/film/" not in text
    assert "nothing to agree with" in text


def test_of_a_partial_study_the_scored_view_has_a_film_and_the_other_its_bytes(reader):
    text = page(reader, "half")
    assert re.findall(r'src="/film/(\d)/', text) == ["0"]
    assert "6a 75 6e 6b" in text


def test_a_film_that_cannot_be_shown_is_a_picture_with_the_reason(reader):
    answer = reader.get("/film/1/half")
    assert (answer.status, answer.headers["content-type"]) == (422, "image/svg+xml")
    assert "not an image" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/study/nobody",
        "/study/../../etc/passwd",
        "/study/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/film/0/nobody",
        "/film/2/half",
        "/film/-1/half",
        "/film/99999999999999999999/half",
        "/thumbnail/nobody",
        "/layer/mask/1/half",
        "/layer/heat/0/half?name=nothing",
        "/layer/anything/0/half",
        "/layer/mask/0/junk",
        "/neighbours/nobody",
    ],
)
def test_what_is_not_there_is_404(reader, path):
    answer = reader.get(path)
    assert answer.status == 404
    assert "Traceback" not in answer.text


def test_an_intensity_that_nobody_knows_is_refused(reader):
    assert reader.get("/film/0/half?intensity=lurid").status == 400


def test_a_filter_that_nobody_knows_is_refused(reader):
    assert reader.get("/study/half?colour=red").status == 400


def test_the_nearest_studies_are_those_of_similar(archive, reader):
    answer = json.loads(reader.get("/neighbours/p1%2Fa").text)
    scored = [row["study_id"] for row in read_scores(archive.root.url).to_pylist() if row["n_views_ok"]]
    assert answer["member"] == "a"
    assert sorted(each["study_id"] for each in answer["studies"]) == sorted({*scored} - {"p1/a"})
    distances = [each["distance"] for each in answer["studies"]]
    assert distances == sorted(distances)
    assert [each["study_id"] for each in answer["studies"] if each["is_same_patient"]] == ["p1/b"]


def test_a_study_without_vectors_says_so(reader):
    answer = reader.get("/neighbours/junk")
    assert answer.status == 404
    assert "no view of study 'junk' was scored" in json.loads(answer.text)["error"]


def test_a_verdict_is_on_the_page_afterwards(archive):
    with opened(archive.root, archive.table) as reader:
        page(reader, "p1/b")
        row = row_of(archive, "p1/b")
        verdict = {"study_id": "p1/b", "finding": "Pneumonia", "verdict": "wrong", "note": "a <b>nodule</b>"}
        body = {
            "id": "0123456789abcdef",
            "reader": "A. Reader",
            "verdicts": [verdict | {"fingerprint": row["fingerprint"]}],
        }
        assert reader.post("/verdicts", body).status == 200
        text = page(reader, "p1/b")
    line = text[text.index('<table id="verdicts">') :]
    label = "no" if row["consensus_Pneumonia"] else "yes"
    assert f"wrong {label} A. Reader" in words(line)
    assert "a &lt;b&gt;nodule&lt;/b&gt;" in line


def test_without_a_table_the_films_come_by_the_lists_of_the_runs(archive):
    with opened(archive.root, None) as reader:
        sent = reader.get("/film/0/p1%2Fb")
        assert (sent.status, sent.headers["content-type"]) == (200, "image/png")


@pytest.fixture(scope="module")
def private(tmp_path_factory) -> Archive:
    folder = tmp_path_factory.mktemp("private")
    (folder / "key").write_bytes(b"k" * 32)
    (folder / "key").chmod(0o600)
    return scored_archive(folder, key=folder / "key")


def test_pseudonyms_without_a_table_have_layers_and_no_films(private):
    study_id = next(row["study_id"] for row in read_scores(private.root.url).to_pylist() if row["status"] == "ok")
    with opened(private.root, None, pseudonymised=True) as reader:
        text = page(reader, study_id)
        assert "Start <code>cxrpipe review</code> with <code>--studies</code>" in text
        assert "/film/" not in text
        assert "/thumbnail/" not in text
        assert reader.get(f"/film/0/{study_id}").status == 404
        assert reader.get(f"/thumbnail/{study_id}").status == 404
        assert reader.get(f"/layer/mask/0/{study_id}").status == 200


def test_pseudonyms_with_their_table_have_films_and_name_no_object(private):
    rows = {row["status"]: row for row in read_scores(private.root.url).to_pylist()}
    with opened(private.root, private.table, pseudonymised=True) as reader:
        text, failed = page(reader, rows["ok"]["study_id"]), page(reader, rows["failed"]["study_id"])
        assert reader.get(f"/film/0/{rows['ok']['study_id']}").status == 200
        refused = reader.get(f"/film/1/{rows['partial']['study_id']}")
    for said in (text, failed, refused.text):
        assert ".png" not in said.replace("image/png", "")
        assert "25 50 44 46" not in said
    assert "under pseudonyms a page holds nothing of a file" in words(failed)
