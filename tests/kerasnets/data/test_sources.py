"""Datasets by name: bundled ones, TFDS, and errors for invalid requests."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from kerasnets.data import cldr as sentences
from kerasnets.data import prepared
from kerasnets.data.sources import DataError, PairSplits, load_images, load_pairs, load_text
from kerasnets.data.splits import hold_out

DATA = Path(os.environ.get("TFDS_DATA_DIR") or Path(__file__).parents[4] / "shared" / "datasets")


def requires(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).is_dir(), reason=f"{name} is not prepared in TFDS_DATA_DIR")


class TestDigits:
    def test_splits(self):
        data = load_images("digits")
        for pixels, labels in (data.train, data.validation, data.test):
            assert pixels.dtype == np.uint8
            assert pixels.shape == (len(labels), 8, 8, 1)
            assert labels.dtype == np.int32
            shares = np.bincount(labels) / len(labels)
            assert np.all((shares > 0.08) & (shares < 0.12))
        assert data.train[0].max() == 255
        assert sum(len(labels) for _, labels in (data.train, data.validation, data.test)) == 1797
        assert data.classes == tuple("0123456789")

    def test_always_the_same(self):
        assert all(
            np.array_equal(a, b) for a, b in zip(load_images("digits").test, load_images("digits").test, strict=True)
        )

    def test_size(self):
        assert load_images("digits", size=(12, 10)).test[0].shape[1:] == (12, 10, 1)


class TestPydocs:
    def test_splits_by_position(self):
        data = load_text("pydocs")
        whole = data.train + data.validation + data.test
        assert len(whole) > 300_000
        assert len(data.validation) == pytest.approx(len(whole) * 0.05, abs=1)
        assert "lambda" in data.train

    def test_parts_name_the_characters(self):
        data = load_text("pydocs")
        total = sum(map(len, (data.train, data.validation, data.test)))
        assert data.parts["train"] == f"characters 0 to {len(data.train):,} of {total:,}"
        assert data.parts["test"] == f"characters {total - len(data.test):,} to {total:,} of {total:,}"


@pytest.fixture(scope="module")
def cldr() -> PairSplits:
    return load_pairs("cldr")


class TestCldr:
    def test_splits(self, cldr):
        assert [len(s) for s, _ in (cldr.train, cldr.validation, cldr.test)] == [12_000, 500, 500]
        sources = cldr.train[0] + cldr.validation[0] + cldr.test[0]
        assert len(set(sources)) == len(sources)
        assert all(0 < len(line.split()) <= 16 for line in [*sources, *cldr.train[1]])
        assert not any(c in line for line in [*sources, *cldr.train[1]] for c in "\u202f\xa0\t{}")

    def test_content(self, cldr):
        pairs = dict(zip(*cldr.train, strict=True))
        pairs |= dict(zip(*cldr.validation, strict=True)) | dict(zip(*cldr.test, strict=True))
        assert pairs["twenty-three"] == "dreiundzwanzig"
        assert any(line.startswith("Montag, ") for line in pairs.values())
        assert any(line.endswith(" Uhr ab.") for line in pairs.values())

    def test_always_the_same(self):
        assert sentences.pairs.__wrapped__() == sentences.pairs()  # whose result tests/conftest.py keeps

    def test_the_other_direction(self):
        data = load_pairs("cldr", source="de", target="en")
        assert not set(data.train[0]) & set(data.test[0])
        assert "zwei" in " ".join(data.test[0])


def store(folder: Path, name: str, features: dict, columns: dict[str, list]) -> None:
    """Prepare a TFDS dataset with only a train split."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": enumerate(rows)},
        data_dir=str(folder),
        disable_shuffling=True,
    )


class TestPrepared:
    @requires("mnist")
    def test_mnist(self):
        data = load_images("mnist", str(DATA))
        assert data.train[0].shape == (55_000, 28, 28, 1)
        assert data.validation[0].shape == (5_000, 28, 28, 1)
        assert data.test[0].shape == (10_000, 28, 28, 1)
        assert data.train[0].dtype == np.uint8
        assert "validation cut from its train split" in data.description

    @requires("tiny_shakespeare")
    def test_tiny_shakespeare(self, monkeypatch):
        monkeypatch.setenv("TFDS_DATA_DIR", str(DATA))
        data = load_text("tiny_shakespeare")
        assert len(data.train + data.validation + data.test) == 1_115_394
        assert data.train.startswith("First Citizen:\nBefore we proceed")
        assert data.parts["validation"] == "characters 1,003,854 to 1,059,623 of 1,115,394"

    @requires("multi30k")
    def test_multi30k(self):
        data = load_pairs("multi30k", str(DATA))
        assert [len(s) for s, _ in (data.train, data.validation, data.test)] == [29_000, 1_014, 1_000]
        assert load_pairs("multi30k", str(DATA), "de", "en").test[0] == data.test[1]
        assert data.test[1][0].endswith(".")

    def test_pairs_with_only_a_train_split(self, tmp_path):
        lines = {"en": [f"line {i}" for i in range(50)], "de": [f"Zeile {i}" for i in range(50)]}
        store(tmp_path, "lines", {"en": tfds.features.Text(), "de": tfds.features.Text()}, lines)
        data = load_pairs("lines", str(tmp_path))
        assert [len(s) for s, _ in (data.train, data.validation, data.test)] == [41, 4, 5]
        assert sorted(data.train[0] + data.validation[0] + data.test[0]) == sorted(lines["en"])
        assert [s.split()[1] for s in data.test[0]] == [t.split()[1] for t in data.test[1]]
        assert data.description.endswith("validation and test cut from its train split")

    def test_text_with_only_a_train_split(self, tmp_path):
        store(tmp_path, "book", {"text": tfds.features.Text()}, {"text": ["ä" * 500, "b" * 498]})
        data = load_text("book", str(tmp_path))
        assert data.train + data.validation + data.test == "ä" * 500 + "\n\n" + "b" * 498
        assert len(data.test) == 50

    def test_images_of_different_sizes(self, tmp_path):
        images = [np.full((4 + i, 5, 3), 10 * i, np.uint8) for i in range(20)]
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["even", "odd"])}
        store(tmp_path, "views", features, {"image": images, "label": [i % 2 for i in range(20)]})
        with pytest.raises(DataError, match="the images of 'views' differ in size"):
            load_images("views", str(tmp_path))
        data = load_images("views", str(tmp_path), size=(8, 6))
        assert data.classes == ("even", "odd")
        assert data.train[0].shape == (17, 8, 6, 3)
        assert np.array_equal(data.train[0][:, 0, 0, 0] // 10 % 2, data.train[1])

    @requires("multi30k")
    @requires("mnist")
    def test_wrong_features(self):
        with pytest.raises(DataError, match="no feature 'fr', only de, en"):
            load_pairs("multi30k", str(DATA), source="fr", target="en")
        with pytest.raises(DataError, match="no feature 'text', only image, label"):
            load_text("mnist", str(DATA))

    def test_unknown_name(self, tmp_path):
        with pytest.raises(
            DataError, match=r"'minst' \(did you mean mnist.*bundled are digits, prepared in .* are none"
        ):
            load_images("minst", str(tmp_path))

    @requires("mnist")
    def test_prepared_datasets_are_listed(self):
        assert "mnist" in prepared.prepared_datasets(str(DATA))

    def test_missing_dataset_without_network(self, tmp_path, monkeypatch):
        monkeypatch.setattr(prepared, "_reachable", lambda host: False)
        with pytest.raises(DataError, match=r"'fashion_mnist' is not in .* cannot be reached: run `tfds build"):
            load_images("fashion_mnist", str(tmp_path))

    def test_unreachable_host_times_out(self, monkeypatch):
        monkeypatch.setattr(prepared.urllib.request, "getproxies", dict)
        monkeypatch.setattr(prepared, "CONNECT_TIMEOUT", 0.2)

        def silence(*_):
            time.sleep(1)
            raise TimeoutError

        start = time.monotonic()
        monkeypatch.setattr(prepared.socket, "create_connection", silence)
        assert not prepared._reachable("host.invalid")
        assert time.monotonic() - start < 0.9

    def test_failed_download_raises_one_sentence(self, tmp_path):
        class Builder:
            url_infos = None

            def download_and_prepare(self):
                raise RuntimeError("the site has moved\nand more")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prepared, "_reachable", lambda host: True)
            with pytest.raises(DataError, match=r"could not be downloaded .*the site has moved\)"):
                prepared._download(Builder(), "some", str(tmp_path), ("digits",))


def test_cldr_has_two_languages():
    with pytest.raises(DataError, match="English and German"):
        load_pairs("cldr", source="en", target="fr")


@pytest.mark.parametrize(("count", "size"), [(5, 1), (100, 10), (60_000, 5_000)])
def test_hold_out(count, size):
    kept, held_out = hold_out(count)
    assert len(held_out) == size
    assert sorted([*kept, *held_out]) == list(range(count))
    assert np.array_equal(held_out, hold_out(count)[1])
