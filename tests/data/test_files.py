"""The user's own data: what is read, and one sentence for what cannot be."""

import numpy as np
import pytest
import tensorflow as tf

from kerasnets.data.sources import DataError, load_images, load_pairs, load_text


def picture(path, value: int, size=(6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), value, np.uint8)
    encode = tf.io.encode_jpeg if path.suffix == ".jpg" else tf.io.encode_png
    path.write_bytes(encode(pixels).numpy())


@pytest.fixture
def photos(tmp_path):
    for name, value in (("cat", 10), ("dog", 200)):
        for i in range(12):
            picture(tmp_path / "photos" / name / f"{i:02}.png", value + i)
    return tmp_path / "photos"


class TestText:
    def test_parts(self, tmp_path):
        whole = "Schöne Grüße 😀\n" * 100
        (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbf" + whole.replace("\n", "\r\n").encode())
        data = load_text(f"file:{tmp_path}/t.txt")
        assert data.train + data.validation + data.test == whole
        assert len(data.train) == len(whole) * 90 // 100

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [(b"abc\xff" * 99, r"not UTF-8 \(byte 3\)"), (b"", "has 0 characters"), (None, "cannot be read")],
    )
    def test_errors(self, tmp_path, content, sentence):
        if content is not None:
            (tmp_path / "t.txt").write_bytes(content)
        with pytest.raises(DataError, match=sentence):
            load_text(f"file:{tmp_path}/t.txt")

    def test_folder(self, tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            load_text(f"file:{tmp_path}")


class TestPairs:
    def test_one_file(self, tmp_path):
        (tmp_path / "p.tsv").write_text("".join(f"source {i}\tZiel {i}\n" for i in range(100)), "utf-8")
        data = load_pairs(f"file:{tmp_path}/p.tsv")
        assert [len(s) for s, _ in (data.train, data.validation, data.test)] == [90, 5, 5]
        everything = [pair for part in (data.train, data.validation, data.test) for pair in zip(*part, strict=True)]
        assert sorted(everything) == sorted((f"source {i}", f"Ziel {i}") for i in range(100))
        assert data.train[0] != sorted(data.train[0])
        assert load_pairs(f"file:{tmp_path}/p.tsv").test == data.test

    def test_a_file_for_each_split(self, tmp_path):
        for name in ("train", "validation", "test"):
            (tmp_path / f"{name}.tsv").write_text(f"{name}\tb\n", "utf-8")
        assert load_pairs(f"file:{tmp_path}").validation == (["validation"], ["b"])
        (tmp_path / "test.tsv").unlink()
        with pytest.raises(DataError, match=r"has no test\.tsv"):
            load_pairs(f"file:{tmp_path}")

    @pytest.mark.parametrize("line", ["no tab", "a\tb\tc", "\tb", "a\t ", ""])
    def test_line_that_is_no_pair(self, tmp_path, line):
        (tmp_path / "p.tsv").write_text(f"a\tb\n{line}\nc\td\n", "utf-8")
        with pytest.raises(DataError, match="line 2 of "):
            load_pairs(f"file:{tmp_path}/p.tsv")

    def test_too_few(self, tmp_path):
        (tmp_path / "p.tsv").write_text("a\tb\nc\td\n", "utf-8")
        with pytest.raises(DataError, match="has 2 different sentences"):
            load_pairs(f"file:{tmp_path}/p.tsv")

    def test_all_translations_of_a_sentence_are_in_one_split(self, tmp_path):
        lines = "".join(f"sentence {n // 3}\ttranslation {n}\n" for n in range(300))
        (tmp_path / "p.tsv").write_text(lines, "utf-8")
        data = load_pairs(f"file:{tmp_path}/p.tsv")
        splits = [set(split[0]) for split in (data.train, data.validation, data.test)]
        assert [len(split) for split in splits] == [90, 5, 5]
        assert len(set.union(*splits)) == 100
        assert sum(len(split[0]) for split in (data.train, data.validation, data.test)) == 300


class TestPictures:
    def test_classes_and_splits(self, photos):
        data = load_images(f"folder:{photos}")
        assert data.classes == ("cat", "dog")
        assert [len(labels) for _, labels in (data.train, data.validation, data.test)] == [20, 2, 2]
        for pixels, labels in (data.train, data.validation, data.test):
            assert pixels.shape[1:] == (6, 5, 3)
            assert set(labels) == {0, 1}
            assert np.array_equal(pixels[:, 0, 0, 0] >= 200, labels == 1)

    def test_given_splits(self, photos, tmp_path):
        (photos).rename(tmp_path / "train")
        for name in ("cat", "dog"):
            picture(tmp_path / "test" / name / "1.jpg", 50)
        data = load_images(f"folder:{tmp_path}")
        assert [len(labels) for _, labels in (data.train, data.validation, data.test)] == [22, 2, 2]

    def test_sizes(self, photos):
        picture(photos / "dog" / "large.png", 200, (50, 40))
        with pytest.raises(DataError, match=r"large\.png has 50 by 40 pixels, 00\.png has 6 by 5"):
            load_images(f"folder:{photos}")
        data = load_images(f"folder:{photos}", size=(8, 9))
        assert data.train[0].shape[1:] == (8, 9, 3)
        assert np.array_equal(data.train[0][:, 3, 3, 0] >= 200, data.train[1] == 1)

    def test_unreadable(self, photos):
        (photos / "cat" / "broken.png").write_bytes((photos / "cat" / "01.png").read_bytes()[:40])
        with pytest.raises(DataError, match=r"cat/broken\.png is no readable picture"):
            load_images(f"folder:{photos}")

    def test_other_files_are_left_alone(self, photos):
        (photos / "cat" / "notes.txt").write_text("x")
        (photos / ".hidden").mkdir()
        assert len(load_images(f"folder:{photos}").train[1]) == 20

    def test_empty_single_and_missing(self, tmp_path):
        with pytest.raises(DataError, match="has no sub-folder"):
            load_images(f"folder:{tmp_path}")
        picture(tmp_path / "cat" / "1.png", 0)
        with pytest.raises(DataError, match="has only the class 'cat'"):
            load_images(f"folder:{tmp_path}")
        (tmp_path / "dog").mkdir()
        with pytest.raises(DataError, match="class 'cat' has 1 pictures"):
            load_images(f"folder:{tmp_path}")
        (tmp_path / "cat" / "1.png").unlink()
        with pytest.raises(DataError, match="has no pictures"):
            load_images(f"folder:{tmp_path}")
        with pytest.raises(DataError, match="is no folder"):
            load_images(f"folder:{tmp_path}/nowhere")

    def test_class_that_train_has_not(self, photos, tmp_path):
        (photos).rename(tmp_path / "train")
        picture(tmp_path / "test" / "cow" / "1.png", 0)
        with pytest.raises(DataError, match="has the class 'cow', which train has not"):
            load_images(f"folder:{tmp_path}")
