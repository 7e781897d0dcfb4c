"""The fingerprint of a run's data: which changes it detects, and how messages describe them."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from kerasnets.checks import RequestError
from kerasnets.data.splits import ImageSplits, PairSplits, TextSplits
from kerasnets.run import fingerprint
from kerasnets.tasks import TASKS


def images(classes=("blue", "red"), counts=(4, 2, 2), value=0):
    splits = [(np.full((n, 2, 2, 3), value, np.uint8), np.arange(n, dtype=np.int32) % 2) for n in counts]
    return ImageSplits(*splits, tuple(classes), "images")


def pairs(*splits):
    return PairSplits(*([list(part) for part in zip(*split, strict=True)] for split in splits), "pairs")


def task(data, dataset="set", name="image_classification", **attributes):
    attributes = {"classes": (), "facts": TASKS[name]} | attributes
    return SimpleNamespace(name=name, data=data, config=SimpleNamespace(dataset=dataset), **attributes)


def fingerprint_of(*arguments, **options):
    return fingerprint.compute(task(*arguments, **options))


def difference(before, now, unit="images"):
    return fingerprint.difference(before, now, unit)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (images(), None),
        (images(("red", "zebra")), "class 'blue' is now 'zebra'"),
        (images(("blue", "red", "zebra")), "class 'zebra' was added"),
        (images(("a", "b", "red")), "classes 'a', 'b' were added, class 'blue' was removed"),
        (images(("red", "blue")), "the classes have another order"),
        (images(counts=(4, 3, 2)), "validation has 3 images and had 2"),
        (images(counts=(1400, 2, 3)), "train has 1,400 images and had 4, test has 3 images and had 2"),
        (images(value=3), None),  # decoders differ slightly between machines
    ],
)
def test_changed_classes_and_counts_are_described(now, message):
    assert difference(fingerprint_of(images()), fingerprint_of(now)) == message


def test_texts_and_pairs_of_the_same_size_are_compared_by_content():
    texts = [TextSplits("abc", "de", "f", ""), TextSplits("abx", "de", "f", "")]
    before, now = (fingerprint_of(data, name="text_generation") for data in texts)
    assert difference(before, now, "characters") == "the characters of train have changed, but not their number"
    one, other = [("a", "x"), ("b", "y")], [("a", "y"), ("b", "x")]
    before, now = (fingerprint_of(pairs(part, part, one), name="translation") for part in (one, other))
    assert difference(before, now, "pairs") == "the pairs of train and validation have changed, but not their number"


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("blue/1.png", "blue/2.png", "red/7.png", "red/deep/8.png", ".hidden/9.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "photos"


def test_added_changed_and_removed_files_are_named(photos):
    before = fingerprint_of(images(), "folder:photos")
    assert sorted(before["files"]) == ["blue/1.png", "blue/2.png", "red/7.png", "red/deep/8.png"]
    (photos / "red" / "7.png").write_text("changed")
    assert difference(before, fingerprint_of(images(value=1), "folder:photos")) == "1 file changed (red/7.png)"
    shutil.rmtree(photos / "blue")
    for name in "abcd":
        (photos / "red" / f"{name}.png").write_text(name)
    message = difference(before, fingerprint_of(images(counts=(6, 2, 2)), "folder:photos"))
    assert message == (
        "4 files were added (red/a.png, red/b.png, red/c.png, ...), 1 changed (red/7.png), "
        "2 were removed (blue/1.png, blue/2.png), train has 6 images and had 4"
    )


def test_equal_files_and_unused_files_make_no_difference(photos):
    before = fingerprint_of(images(), "folder:photos")
    assert difference(before, fingerprint_of(images(value=1), "folder:photos")) is None  # another machine's decoder
    (photos / "notes.txt").write_text("unused")
    assert difference(before, fingerprint_of(images(), "folder:photos")) is None


def test_a_changed_single_file_is_named(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("one")
    before = fingerprint_of(TextSplits("on", "e", "f", ""), f"file:{book}", "text_generation")
    book.write_text("two")
    now = fingerprint_of(TextSplits("tw", "e", "f", ""), f"file:{book}", "text_generation")
    assert difference(before, now, "characters") == "1 file changed (book.txt)"


def test_an_export_detects_changed_data_without_file_names(photos, tmp_path):
    image_task, extra = task(images(), "folder:photos", classes=["blue", "red"]), tmp_path / "extra"
    extra.mkdir()
    fingerprint.write(tmp_path, fingerprint.compute(image_task))
    fingerprint.copy_without_names(tmp_path, extra)
    assert "7.png" not in (extra / "data.json").read_text()
    assert fingerprint.check_scored(extra, image_task, "test") is None
    (photos / "red" / "7.png").write_text("changed")
    image_task.data = images(value=1)
    with pytest.raises(RequestError, match="files were changed, added or removed"):
        fingerprint.check_scored(extra, image_task, "test")


def test_only_the_scored_split_may_have_changed(tmp_path, capsys):
    fingerprint.write(tmp_path, fingerprint_of(images()))

    def check(now, split="test"):
        return fingerprint.check_scored(tmp_path, task(now, classes=["blue", "red"]), split)

    assert check(images(counts=(4, 2, 9))) == "test has 9 images and had 2"
    assert check(images(counts=(4, 2, 9)), "validation") is None
    assert check(images(counts=(9, 2, 2))) is None  # the test split has not changed
    with pytest.raises(RequestError, match=r"train has 9 images and had 4, test has 3 images and had 2; restore"):
        check(images(counts=(9, 2, 3)))
    with pytest.raises(RequestError, match="class 'blue' is now 'zebra'"):
        check(images(("red", "zebra")))
    (tmp_path / "data.json").unlink()
    assert check(images(counts=(9, 2, 3))) is None
    assert (
        "data.json is missing: a change of the data since the training cannot be detected." in capsys.readouterr().err
    )
    with pytest.raises(RequestError, match="class 'zebra' was added"):
        check(images(("blue", "red", "zebra")))
