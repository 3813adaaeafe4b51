"""Thousands of mutated files are scored as archives by the job: the night goes on, whatever is in the files.

    python tests/helpers/fuzz_job.py --files 100000            rounds of 2,000 under Ray, and a table at the end
    python tests/helpers/fuzz_job.py --files 2000 --seed 17    the round of seed 17 again
    python tests/helpers/fuzz_job.py --files 2000 --loop       without Ray, in the plain loop

A round is four kinds of archives: a folder of images, a folder of DICOM files, a folder of containers, and tables. Of
every archive: exit status 0, 2 or 3, no traceback, every file a row or a line of skipped.parquet, every study a row.
"""

import argparse
import contextlib
import io
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from accounts import files_in_no_account, outcomes
from builders import classifier, png, radiograph
from mutations import CONTAINERS, DICOM, IMAGES, mutated

from cxrpipe import cli
from cxrpipe.programs.score import score_archive
from cxrpipe.runs.engine import loop

FILES = 2_000
PACKED = 40
"""Of a round's files: 30 containers and 10 tables."""
STATUSES = (0, 2, 3)
Score = Callable[[list[str]], int]
"""Arguments of `score` → exit status."""


def by_ray(argv: list[str]) -> int:
    return cli._run("score", argv)


def by_loop(argv: list[str]) -> int:
    return score_archive(cli.parse("score", argv), loop)


def run_round(folder: Path, seed: int, files: int, model: str, score: Score) -> Counter:
    """Score the archives of one round; (kind of file, status) → files. AssertionError says what does not hold."""
    found: Counter = Counter()
    for name, layout, archive in write_archives(folder, seed, files):
        try:
            found.update(score_one(folder / name, layout, archive, model, score))
        except Exception as error:  # any at all is what is looked for
            raise AssertionError(f"seed {seed}, {files} files, archive {name}: {error!r}") from error
    return found


# ---- archives -------------------------------------------------------------------------------------------------


def write_archives(folder: Path, seed: int, files: int) -> Iterator[tuple[str, str, Path]]:
    """Write the archives of a round one after another: name, layout, and where it is."""
    packed = PACKED * files // FILES
    tables, containers = packed // 4, packed - packed // 4
    others = files - packed
    kinds = {"images": IMAGES, "dicom": DICOM, "containers": CONTAINERS}
    counts = {"images": others * 2 // 3, "dicom": others - others * 2 // 3, "containers": containers}
    for name, layout in (("images", "images"), ("dicom", "dicom"), ("containers", "images")):
        archive = folder / name / "archive"
        archive.mkdir(parents=True)
        for number in range(counts[name]):
            kind = kinds[name][number % len(kinds[name])]
            (archive / f"{number:05}_{kind}").write_bytes(_one(kind, seed, number))
        yield name, layout, archive
    for number in range(tables):
        archive = folder / f"table{number}" / "archive"
        archive.mkdir(parents=True)
        for film in range(6):
            (archive / f"film{film}.png").write_bytes(png(radiograph(film)))
        (archive / "table.csv").write_bytes(_one("table.csv", seed, number))
        yield f"table{number}", "table", archive / "table.csv"


def _one(kind: str, seed: int, number: int) -> bytes:
    rng = random.Random(f"{seed} {kind} {number}")
    return mutated(kind, rng, mended=rng.random() < 0.5, number=number)


# ---- the job --------------------------------------------------------------------------------------------------


def score_one(folder: Path, layout: str, archive: Path, model: str, score: Score) -> Counter:
    """Index and score one archive, and hold it to what is promised."""
    table = folder / "table" / "studies.parquet"
    status, said = _quietly(lambda: cli._run("index", [f"--archive={archive}", f"--layout={layout}", f"--out={table}"]))
    if status:
        return Counter({(folder.name.rstrip("0123456789"), _refused(status, said)): 1})
    argv = [f"--studies={table}", f"--models={model}", f"--out={folder / 'out'}", "--max-failed-fraction=1"]
    argv += ["--decode-timeout-s=20"]
    status, said = _quietly(lambda: score(argv))
    if status == 2:
        return Counter({(folder.name.rstrip("0123456789"), _refused(status, said)): 1})
    assert status in STATUSES, f"exit status {status}: {said[-500:]}"
    return account(archive, table, folder / "out")


def _quietly(program: Callable[[], int]) -> tuple[int, str]:
    """Exit status, and what the program has told a person."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = program()
    assert "Traceback" not in said.getvalue(), said.getvalue()[-2000:]
    return status, said.getvalue()


def _refused(status: int, said: str) -> str:
    last = said.strip().splitlines()[-1:]
    assert status == 2, f"exit status {status}: {said[-500:]}"
    assert last, "refused without a word"
    return "refused"


def account(archive: Path, table: Path, out: Path) -> Counter:
    """(kind of file, status and reason) → files; AssertionError where a study has no row, or a file no account."""
    found = outcomes(str(table), str(out))
    if archive.is_dir():
        lost = files_in_no_account(str(archive), str(table), found)
        assert not lost, f"in no account: {lost[:3]} of {len(lost)}"
    return Counter((_kind(outcome.url), outcome.said) for outcome in found)


def _kind(url: str) -> str:
    return url.rpartition("/")[2].partition("_")[2] or "table.csv"


# ---- rounds ---------------------------------------------------------------------------------------------------


def run_rounds(files: int, seed: int, score: Score) -> tuple[Counter, list[str]]:
    """Rounds of 2,000 files, one seed each; what became of the files, and what does not hold."""
    found: Counter = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        model = small_model(Path(scratch))
        for number, start in enumerate(range(0, files, FILES)):
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="fuzz-round-") as folder:
                try:
                    found += run_round(Path(folder), seed + number, min(FILES, files - start), model, score)
                except AssertionError as error:
                    traceback.print_exception(error)
                    wrong.append(str(error))
            print(f"seed {seed + number}: {time.monotonic() - began:.0f} s, {len(wrong)} wrong so far", flush=True)
    return found, wrong


def small_model(folder: Path) -> str:
    return classifier(folder / "model", architecture="smallcnn", side_px=16).url


def print_table(found: Counter) -> None:
    for kind in sorted({kind for kind, _ in found}):
        said = sorted(((count, status) for (of, status), count in found.items() if of == kind), reverse=True)
        print(f"{kind:20}" + ", ".join(f"{status} {count:,}" for count, status in said))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; each round has the next")
    parser.add_argument("--loop", action="store_true", help="score in the plain loop, without Ray")
    asked = parser.parse_args()
    if asked.loop:
        found, wrong = run_rounds(asked.files, asked.seed, by_loop)
    else:
        from cxrpipe.on_ray import session

        with session.session():  # one for all archives
            found, wrong = run_rounds(asked.files, asked.seed, by_ray)
    print_table(found)
    print(f"{sum(found.values()):,} accounted for; {len(wrong)} rounds went wrong", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
