"""MedMNIST: the arrays of an npz become studies, and each image is read at random where it lies."""

import contextlib
import io
import random
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from catalogued import found, put, studies

from cxrpipe.archives.containers import arrays
from cxrpipe.archives.reader import Reader
from cxrpipe.errors import ConfigError, StoreError, StudyError
from cxrpipe.images import radiographs
from cxrpipe.records import Study
from cxrpipe.storage import join, s3

PIXELS = {
    name: np.random.default_rng(number).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    for number, (name, count) in enumerate({"train_images": 12, "val_images": 5, "test_images": 3}.items())
}
LABELS = {
    name.replace("images", "labels"): (np.arange(len(pixels), dtype=np.uint8) % 2)[:, None]
    for name, pixels in PIXELS.items()
}
every_packing = pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])


def medmnist(folder: str, made: dict | None = None, save=np.savez_compressed, name: str = "pneumoniamnist.npz") -> str:
    """The url of an npz, as MedMNIST publishes it."""
    packed = io.BytesIO()
    save(packed, **(made or PIXELS | LABELS))
    return join(put(folder, name, content=packed.getvalue()), name)


def pixels(study: Study, reader: Reader) -> np.ndarray:
    return radiographs.decode(reader.read(study.views[0]), "voi").pixels


def original(study: Study) -> np.ndarray:
    part, number = study.study_id.split("_")
    return PIXELS[f"{part}_images"][int(number)]


def test_a_study_is_named_by_its_part_and_its_place(anywhere):
    every = studies(medmnist(anywhere))
    assert list(every)[:2] + list(every)[12:13] + list(every)[-1:] == [
        "train_00000",
        "train_00001",
        "val_00000",
        "test_00002",
    ]
    assert {study.patient_id for study in every.values()} == {None}


def test_the_parts_are_those_of_the_file(tmp_path):
    assert Counter(study.split for study in studies(medmnist(str(tmp_path)), seed=3).values()) == {
        "train": 12,
        "valid": 5,
        "test": 3,
    }


def test_the_labels_are_those_of_the_file(tmp_path):
    for study in studies(medmnist(str(tmp_path))).values():
        assert study.labels == {"Pneumonia": float(int(study.study_id[-2:]) % 2)}


def test_the_fourteen_labels_of_chestmnist_are_named(tmp_path):
    made = {"train_images": PIXELS["train_images"], "train_labels": np.eye(12, 14, dtype=np.uint8)}
    every = studies(medmnist(str(tmp_path), made, name="chestmnist_64.npz"))
    present = [[name for name, label in study.labels.items() if label] for study in every.values()]
    assert present[:3] == [["Atelectasis"], ["Cardiomegaly"], ["Pleural_Effusion"]]
    assert len(every["train_00000"].labels) == 14


def test_images_without_labels_are_studies_of_which_nothing_is_known(tmp_path):
    every = studies(medmnist(str(tmp_path), {"test_images": PIXELS["test_images"]}))
    assert [study.labels for study in every.values()] == [{"Pneumonia": None}] * 3


@every_packing
def test_an_image_read_at_random_is_the_image_of_the_array(anywhere, save):
    every = list(studies(medmnist(anywhere, save=save)).values())
    random.Random(0).shuffle(every)
    with Reader("") as reader:
        for study in every:
            assert np.array_equal(pixels(study, reader), original(study))


def test_a_large_deflated_array_is_not_inflated_for_each_image(tmp_path, monkeypatch):
    made = {"train_images": np.random.default_rng(0).integers(0, 256, (100, 224, 224), dtype=np.uint8)}
    every = list(studies(medmnist(str(tmp_path), made)).values())
    read = Counter()
    readinto = arrays.zips.AsGzip.readinto

    def counted(self, buffer):
        count = readinto(self, buffer)
        read["bytes"] += count
        return count

    monkeypatch.setattr(arrays.zips.AsGzip, "readinto", counted)
    with Reader("") as reader:
        assert np.array_equal(pixels(every[-1], reader), made["train_images"][-1])
        first = read["bytes"]
        for number in (3, 90, 40):
            assert np.array_equal(pixels(every[number], reader), made["train_images"][number])
    assert (read["bytes"] - first) / 3 < first / 2


@every_packing
@pytest.mark.parametrize("dtype", [np.uint16, np.uint8])
@pytest.mark.parametrize("shape", [(3, 20, 30), (3, 20, 30, 3)])
def test_deep_and_coloured_images_keep_their_values(tmp_path, save, dtype, shape):
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape[:3], dtype=dtype)
    made = values if len(shape) == 3 else np.repeat(values[..., None], 3, axis=3)
    every = studies(medmnist(str(tmp_path), {"train_images": made}, save))
    with Reader("") as reader:
        found = np.stack([pixels(study, reader) for study in every.values()])
    assert np.array_equal(found, values if dtype == np.uint8 else np.round(values / 257).astype(np.uint8))


def test_a_file_that_is_gone_or_cut_short_is_the_objects_fault(tmp_path):
    url = medmnist(str(tmp_path))
    study = studies(url)["train_00003"]
    data = Path(url).read_bytes()
    for content, reason in ((data[:2000], "corrupt"), (b"", "corrupt"), (None, "missing")):
        Path(url).unlink()
        if content is not None:
            Path(url).write_bytes(content)
        with Reader("") as reader, pytest.raises(StudyError) as error:
            reader.read(study.views[0])
        assert error.value.reason == reason


@every_packing
def test_an_array_of_another_size_than_indexed_is_not_read_as_the_old_one(tmp_path, save):
    study = studies(medmnist(str(tmp_path), save=save))["train_00003"]
    medmnist(str(tmp_path), {"train_images": np.zeros((12, 64, 64), np.uint8)}, save)
    with Reader("") as reader, pytest.raises(StudyError, match="another size"):
        reader.read(study.views[0])


@every_packing
def test_flipped_bytes_are_at_worst_other_pixels(tmp_path, save):
    url = medmnist(str(tmp_path), save=save)
    every = studies(url)
    data = bytearray(Path(url).read_bytes())
    for place in random.Random(0).sample(range(200, len(data)), 30):
        Path(url).write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        with Reader("") as reader:
            for name in ("train_00000", "train_00011", "val_00004"):
                with contextlib.suppress(StudyError):
                    assert reader.read(every[name].views[0])


@pytest.mark.s3
@every_packing
def test_a_store_that_goes_away_is_not_the_objects_fault(tmp_path, s3_env, bucket, monkeypatch, save):
    """An npz is read through two libraries that wrap errors; ours comes out as it went in, and the next read works."""
    made = {"train_images": np.random.default_rng(0).integers(0, 256, (100, 224, 224), dtype=np.uint8)}
    every = studies(medmnist(f"s3://{bucket}", made, save))

    def away(url: str, *where: int) -> bytes:
        raise StoreError(f"{url}: away")

    with Reader("") as reader:
        pixels(every["train_00000"], reader)
        with monkeypatch.context() as patched:
            patched.setattr(s3, "read", away)
            with pytest.raises(StoreError, match="away"):
                reader.read(every["train_00099"].views[0])
        assert np.array_equal(pixels(every["train_00099"], reader), made["train_images"][99])


def test_many_threads_read_one_array(tmp_path):
    every = list(studies(medmnist(str(tmp_path))).values()) * 10
    with Reader("") as reader, ThreadPoolExecutor(8) as threads:
        for study, found in zip(every, threads.map(lambda study: pixels(study, reader), every), strict=True):
            assert np.array_equal(found, original(study))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"images": PIXELS["train_images"]}, "no train_images, val_images or test_images"),
        ({"train_images": PIXELS["train_images"], "train_labels": np.zeros((11, 1))}, r"shape \(11, 1\); expected"),
        ({"train_images": PIXELS["train_images"], "train_labels": np.full((12, 1), 2)}, "of zeros and ones"),
        ({"train_images": np.array([{}, {}])}, "cannot be read as an npz"),
    ],
)
def test_another_npz_is_refused(tmp_path, made, message):
    with pytest.raises(ConfigError, match=message):
        found(medmnist(str(tmp_path), made))


def test_two_sizes_of_one_set_are_refused(tmp_path):
    medmnist(str(tmp_path))
    medmnist(str(tmp_path), name="pneumoniamnist_64.npz")
    with pytest.raises(ConfigError, match=r"2 files like .*expected one"):
        found(str(tmp_path))


def test_text_named_npz_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"pneumoniamnist\.npz: cannot be read as an npz"):
        found(put(str(tmp_path), "pneumoniamnist.npz", content=b"not found"))


def test_an_npz_that_holds_other_files_is_refused(tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as npz:
        npz.writestr("train_images.npy", b"text")
    with pytest.raises(ConfigError, match="cannot be read as an npz"):
        found(put(str(tmp_path), "pneumoniamnist.npz", content=packed.getvalue()))


@pytest.mark.slow
def test_the_real_pneumoniamnist(real_data: Path):
    every = studies(str(real_data / "medmnist"))
    assert Counter(study.split for study in every.values()) == {"train": 4708, "valid": 524}
    npz = np.load(real_data / "medmnist" / "pneumoniamnist.npz")
    with Reader("") as reader:
        for part, count in (("train", 4708), ("val", 524)):
            assert [every[f"{part}_{n:05}"].labels["Pneumonia"] for n in range(count)] == npz[
                f"{part}_labels"
            ].ravel().tolist()
            for number in range(0, count, 97):
                assert np.array_equal(pixels(every[f"{part}_{number:05}"], reader), npz[f"{part}_images"][number])
