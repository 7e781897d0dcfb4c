"""The user's own data: reading, and one sentence for each error."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kerasnets.data.sources import DataError, load_images, load_pairs, load_text


def write_image(path, value: int, size=(6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), value, np.uint8)
    encode = tf.io.encode_jpeg if path.suffix == ".jpg" else tf.io.encode_png
    path.write_bytes(encode(pixels).numpy())


@pytest.fixture
def photos(tmp_path):
    for name, value in (("cat", 10), ("dog", 200)):
        for i in range(12):
            write_image(tmp_path / "photos" / name / f"{i:02}.png", value + i)
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
        [
            (b"abc\xff" * 99, r"not UTF-8 \(byte 3\)"),
            (b"", "has 0 characters"),
            (None, "cannot be read"),
            ("Grüße".encode("utf-16") * 99, "is UTF-16, which Windows calls Unicode: save it as UTF-8"),
            ("a text".encode("utf-16-be") * 99, r"has null bytes \(the first is byte 0\)"),
            (b" \n\t" * 99 + b"the end", "has only white space in the first 90 %"),
        ],
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

    def test_alternative_split_names_and_a_missing_split(self, tmp_path):
        lines = "".join(f"source {n // 2}\tZiel {n}\n" for n in range(80))
        (tmp_path / "Train.tsv").write_text(lines, "utf-8")
        (tmp_path / "dev.tsv").write_text("a\tb\n", "utf-8")
        (tmp_path / "notes.md").write_text("x")
        data = load_pairs(f"file:{tmp_path}")
        assert data.validation == (["a"], ["b"]) and len(data.train[0]) == 72
        assert not set(data.train[0]) & set(data.test[0])  # both pairs of a sentence are in one split
        assert str(data.summary) == "81 pairs of sentences; 1 file left out: 1 of other formats (notes.md)"
        (tmp_path / "valid.tsv").write_text("c\td\n", "utf-8")
        with pytest.raises(DataError, match="has both 'dev' and 'valid', for one split"):
            load_pairs(f"file:{tmp_path}")
        (tmp_path / "valid.tsv").rename(tmp_path / "pairs.tsv")
        with pytest.raises(DataError, match="has 'pairs' beside its splits: only train, "):
            load_pairs(f"file:{tmp_path}")
        for name in ("Train", "dev", "pairs"):
            (tmp_path / f"{name}.tsv").unlink()
        with pytest.raises(DataError, match=r"has no file train\.tsv"):
            load_pairs(f"file:{tmp_path}")

    @pytest.mark.parametrize("line", ["no tab", "a\tb\tc", "\tb", "a\t "])
    def test_invalid_line(self, tmp_path, line):
        (tmp_path / "p.tsv").write_text(f"a\tb\n{line}\nc\td\n", "utf-8")
        with pytest.raises(DataError, match="1 of 3 lines of .* are not .*: line 2, "):
            load_pairs(f"file:{tmp_path}/p.tsv")

    def test_invalid_lines_are_counted_and_blank_lines_left_out(self, tmp_path):
        lines = [f"source {n}\tZiel {n}" for n in range(10)]
        (tmp_path / "p.tsv").write_text("\n".join(["", *lines, " ", "\t", "a\tb\n\n"]), "utf-8")
        data = load_pairs(f"file:{tmp_path}/p.tsv")
        assert str(data.summary) == (
            "11 pairs of sentences; 4 lines left out: 4 without anything "
            "(line 1 of p.tsv, line 12 of p.tsv, line 13 of p.tsv and 1 more)"
        )
        assert data.summary.record()["left_out"] == {"lines without anything": 4}
        (tmp_path / "p.tsv").write_text("\n".join([*lines, "x", "y", "z", "a\tb\tc"]), "utf-8")
        with pytest.raises(
            DataError, match=r"4 of 14 lines of .*line 11, 'x' .*; line 12, .*; line 13, .*; and 1 more"
        ):
            load_pairs(f"file:{tmp_path}/p.tsv")

    def test_byte_order_marks_and_ends_of_lines(self, tmp_path):
        """As Windows writes them, and where such files were joined."""
        part = "\ufeff" + "".join(f"{{0}} {n}\tZiel {n}\r\n" for n in range(10))
        (tmp_path / "p.tsv").write_bytes((part.format("a") + part.format("b")).encode())
        data = load_pairs(f"file:{tmp_path}/p.tsv")
        everything = sorted(source for part in (data.train, data.validation, data.test) for source in part[0])
        assert everything == sorted(f"{letter} {n}" for letter in "ab" for n in range(10))
        assert all(target.startswith("Ziel") and target.strip() == target for target in data.train[1])

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


class TestImages:
    def test_classes_and_splits(self, photos):
        data = load_images(f"folder:{photos}")
        assert data.classes == ("cat", "dog")
        assert [len(labels) for _, labels in (data.train, data.validation, data.test)] == [20, 2, 2]
        for pixels, labels in (data.train, data.validation, data.test):
            assert pixels.shape[1:] == (6, 5, 3)
            assert set(labels) == {0, 1}
            assert np.array_equal(pixels[:, 0, 0, 0] >= 200, labels == 1)

    def test_split_folders(self, photos, tmp_path):
        (photos).rename(tmp_path / "train")
        for name in ("cat", "dog"):
            write_image(tmp_path / "test" / name / "1.jpg", 50)
        data = load_images(f"folder:{tmp_path}")
        assert [len(labels) for _, labels in (data.train, data.validation, data.test)] == [22, 2, 2]

    @pytest.mark.parametrize(
        ("names", "sizes"),
        [
            (("train", "val"), [11 * 2, 2, 2]),
            (("Training", "Testing"), [11 * 2, 2, 2]),
            (("train", "eval"), [11 * 2, 2, 2]),
            (("train", "eval", "test"), [24, 2, 2]),
            (("train", "dev", "eval"), [24, 2, 2]),
        ],
    )
    def test_names_of_splits(self, photos, tmp_path, names, sizes):
        photos.rename(tmp_path / names[0])
        for value, split in enumerate(names[1:], start=1):
            for name in ("cat", "dog"):
                write_image(tmp_path / split / name / "1.png", value)
        data = load_images(f"folder:{tmp_path}")
        assert [len(labels) for _, labels in (data.train, data.validation, data.test)] == sizes
        values = {split: int(getattr(data, split)[0].min()) for split in ("validation", "test")}
        expected = {"eval": "test", "dev": "validation", "val": "validation", "Testing": "test", "test": "test"}
        if "test" in names:
            expected["eval"] = "validation"
        for value, name in enumerate(names[1:], start=1):
            assert values[expected[name]] == value

    def test_unknown_split_folders(self, photos, tmp_path):
        photos.rename(tmp_path / "train")
        (tmp_path / "holdout").mkdir()
        with pytest.raises(DataError, match="has 'holdout' beside its splits: only train, training, .* are allowed"):
            load_images(f"folder:{tmp_path}")
        (tmp_path / "holdout").rename(tmp_path / "val")
        (tmp_path / "VALIDATION").mkdir()
        with pytest.raises(DataError, match="has both 'VALIDATION' and 'val', for one split: keep one"):
            load_images(f"folder:{tmp_path}")
        (tmp_path / "VALIDATION").rmdir()
        (tmp_path / "train").rename(tmp_path / "test")
        with pytest.raises(DataError, match="has test and val, but no 'train'"):
            load_images(f"folder:{tmp_path}")

    def test_classes_without_images_or_with_invalid_names(self, photos, tmp_path):
        (photos / "cow\n").mkdir()
        with pytest.raises(DataError, match=r"has the class 'cow\\n': rename it"):
            load_images(f"folder:{photos}")
        (photos / "cow\n").rename(photos / "cow")
        (photos / "cow" / "1.heic").write_text("x")
        with pytest.raises(DataError, match=r"class 'cow' has 0 images: .*; 1 file left out: 1 of .*\(cow/1\.heic\)"):
            load_images(f"folder:{photos}")
        photos.rename(tmp_path / "train")
        with pytest.raises(DataError, match="has no images of the class 'cow': add some or remove it"):
            load_images(f"folder:{tmp_path}")

    def test_many_classes_are_summarized(self, tmp_path):
        for n in range(11):
            for value in range(4 + n % 2):
                write_image(tmp_path / f"{n:02}" / f"{value}.png", value)
        assert load_images(f"folder:{tmp_path}").summary.text == "49 images in 11 classes (4 to 5 each)"

    def test_sizes(self, photos):
        write_image(photos / "dog" / "large.png", 200, (50, 40))
        with pytest.raises(DataError, match=r"large\.png has 50 by 40 pixels, 00\.png has 6 by 5"):
            load_images(f"folder:{photos}")
        data = load_images(f"folder:{photos}", size=(8, 9))
        assert data.train[0].shape[1:] == (8, 9, 3)
        assert np.array_equal(data.train[0][:, 3, 3, 0] >= 200, data.train[1] == 1)

    def test_unreadable_images_are_counted_and_named(self, photos, tmp_path):
        photos.rename(tmp_path / "train")
        for path in ("train/cat/a.png", "train/cat/b.png", "train/dog/c.png", "test/cat/d.png"):
            write_image(tmp_path / path, 0)
            (tmp_path / path).write_bytes((tmp_path / path).read_bytes()[:40])
        write_image(tmp_path / "test" / "cat" / "e.png", 0)
        with pytest.raises(DataError) as error:
            load_images(f"folder:{tmp_path}")
        broken = "is broken or cut off and cannot be decoded"
        assert str(error.value) == (
            f"4 of 29 images in {tmp_path} cannot be read: test/cat/d.png {broken}; train/cat/a.png {broken}; "
            f"train/cat/b.png {broken}; and 1 more: repair or remove them, or leave them out with --skip-unreadable"
        )
        data = load_images(f"folder:{tmp_path}", skip_unreadable=True)
        assert [len(labels) for _, labels in (data.train, data.validation, data.test)] == [22, 2, 1]
        assert data.summary.record()["left_out"] == {"files unreadable": 4}

    def test_none_is_readable(self, photos):
        for file in photos.rglob("*.png"):
            file.write_bytes(b"")
        with pytest.raises(DataError, match=r"none of the 24 images .* can be read: .*; 24 files left out: 24 unread"):
            load_images(f"folder:{photos}", skip_unreadable=True)

    def test_left_out_files_are_counted(self, photos):
        (photos / "readme.txt").write_text("x")
        (photos / ".git").mkdir()
        (photos / "Thumbs.db").write_text("x")
        for name in ("a.tif", "b.heic", "c.txt", "d.avif"):
            (photos / "cat" / name).write_text("x")
        (photos / "cat" / ".photo.png").write_text("x")
        (photos / "dog" / "empty.jpg").touch()
        (photos / "dog" / "gone.jpg").symlink_to("nowhere.jpg")
        data = load_images(f"folder:{photos}", skip_unreadable=True)
        assert str(data.summary) == (
            "24 images in 2 classes (cat 12, dog 12); 9 files left out: "
            "4 of other formats (cat/a.tif, cat/b.heic, cat/c.txt and 1 more), 2 unreadable (dog/empty.jpg is not a "
            "PNG, JPEG, GIF, BMP or WebP file, dog/gone.jpg cannot be read (No such file or directory)), "
            "1 beside the classes (readme.txt), 2 hidden (.git, cat/.photo.png)"
        )
        assert data.summary.record() == {
            "read": "24 images in 2 classes (cat 12, dog 12)",
            "left_out": {
                "files of other formats": 4,
                "files unreadable": 2,
                "files beside the classes": 1,
                "files hidden": 2,
            },
        }

    def test_folders_in_folders_and_links(self, photos):
        for name in ("deep/down", "deep"):
            write_image(photos / "cat" / name / "1.JPG", 10)
        (photos / "cat" / "again").symlink_to(photos)  # which has the dogs
        (photos / "cat" / "deep" / "round").symlink_to(photos / "cat")
        assert load_images(f"folder:{photos}").summary.text == "26 images in 2 classes (cat 14, dog 12)"

    def test_format_is_read_from_the_content(self, photos):
        """The extension does not matter; files that a server rejects are unreadable."""
        image = Image.new("RGBA", (5, 6))
        for name, kind in (("a.jpg", "WEBP"), ("b.webp", "PNG"), ("c.jfif", "GIF")):
            image.convert("RGB").convert("P" if kind == "GIF" else "RGB").save(photos / "cat" / name, kind)
        image.convert("P").save(photos / "dog" / "palette.bmp")
        image.save(photos / "dog" / "clear.png")
        data = load_images(f"folder:{photos}", skip_unreadable=True)
        assert data.summary.text == "28 images in 2 classes (cat 15, dog 13)"
        assert (
            data.summary.left_out[0]
            .names[0]
            .startswith("dog/palette.bmp is an unsupported BMP; it must have 24 or 32 bits")
        )
        parts = [data.train, data.validation, data.test]
        assert sum((pixels == 255).all(axis=(1, 2, 3)).sum() for pixels, _ in parts) == 1  # nothing on white

    def test_empty_single_and_missing(self, tmp_path):
        with pytest.raises(DataError, match="has no subfolder"):
            load_images(f"folder:{tmp_path}")
        write_image(tmp_path / "cat" / "1.png", 0)
        with pytest.raises(DataError, match="has only the class 'cat'"):
            load_images(f"folder:{tmp_path}")
        (tmp_path / "dog").mkdir()
        with pytest.raises(DataError, match="class 'cat' has 1 images"):
            load_images(f"folder:{tmp_path}")
        (tmp_path / "cat" / "1.png").unlink()
        with pytest.raises(DataError, match="has no images: put files"):
            load_images(f"folder:{tmp_path}")
        with pytest.raises(DataError, match="is not a folder"):
            load_images(f"folder:{tmp_path}/nowhere")

    def test_class_missing_from_train(self, photos, tmp_path):
        (photos).rename(tmp_path / "train")
        write_image(tmp_path / "test" / "cow" / "1.png", 0)
        with pytest.raises(DataError, match="has the class 'cow', which train does not have"):
            load_images(f"folder:{tmp_path}")
