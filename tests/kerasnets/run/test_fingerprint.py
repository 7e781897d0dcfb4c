"""The fingerprint of a run's data: what is a difference, and the sentence that names it."""

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


def taken(*arguments, **options):
    return fingerprint.take(task(*arguments, **options))


def difference(before, now, unit="images"):
    return fingerprint.difference(before, now, unit)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (images(), None),
        (images(("red", "zebra")), "class 'blue' is now 'zebra'"),
        (images(("blue", "red", "zebra")), "class 'zebra' was added"),
        (images(("a", "b", "red")), "classes 'a', 'b' were added, class 'blue' is gone"),
        (images(("red", "blue")), "the classes have another order"),
        (images(counts=(4, 3, 2)), "validation has 3 images and had 2"),
        (images(counts=(1400, 2, 3)), "train has 1,400 images and had 4, test has 3 images and had 2"),
        (images(value=3), None),  # a decoder may differ by a shade from machine to machine
    ],
)
def test_classes_and_counts(now, message):
    assert difference(taken(images()), taken(now)) == message


def test_texts_and_pairs_of_the_same_size_are_compared_by_what_they_say():
    text = [TextSplits("abc", "de", "f", ""), TextSplits("abx", "de", "f", "")]
    before, now = (taken(data, name="text_generation") for data in text)
    assert difference(before, now, "characters") == "train held other characters, as many as now"
    one, other = [("a", "x"), ("b", "y")], [("a", "y"), ("b", "x")]
    before, now = (taken(pairs(part, part, one), name="translation") for part in (one, other))
    assert difference(before, now, "pairs") == "train and validation held other pairs, as many as now"


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("blue/1.png", "blue/2.png", "red/7.png", "red/deep/8.png", ".hidden/9.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "photos"


def test_files_that_were_added_changed_or_removed_are_named(photos):
    before = taken(images(), "folder:photos")
    assert sorted(before["files"]) == ["blue/1.png", "blue/2.png", "red/7.png", "red/deep/8.png"]
    (photos / "red" / "7.png").write_text("changed")
    assert difference(before, taken(images(value=1), "folder:photos")) == "1 file changed (red/7.png)"
    shutil.rmtree(photos / "blue")
    for name in "abcd":
        (photos / "red" / f"{name}.png").write_text(name)
    message = difference(before, taken(images(counts=(6, 2, 2)), "folder:photos"))
    assert message == (
        "4 files were added (red/a.png, red/b.png, red/c.png, ...), 1 changed (red/7.png), "
        "2 are gone (blue/1.png, blue/2.png), train has 6 images and had 4"
    )


def test_files_that_are_the_same_or_are_not_read_make_no_difference(photos):
    before = taken(images(), "folder:photos")
    assert difference(before, taken(images(value=1), "folder:photos")) is None  # another machine's decoder
    (photos / "notes.txt").write_text("read by nobody")
    assert difference(before, taken(images(), "folder:photos")) is None


def test_a_single_file_is_told_by_its_name(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("one")
    before = taken(TextSplits("on", "e", "f", ""), f"file:{book}", "text_generation")
    book.write_text("two")
    now = taken(TextSplits("tw", "e", "f", ""), f"file:{book}", "text_generation")
    assert difference(before, now, "characters") == "1 file changed (book.txt)"


def test_an_export_knows_the_data_without_the_names_of_files(photos, tmp_path):
    trained, extra = task(images(), "folder:photos", classes=["blue", "red"]), tmp_path / "extra"
    extra.mkdir()
    fingerprint.write(tmp_path, fingerprint.take(trained))
    fingerprint.copy_without_names(tmp_path, extra)
    assert "7.png" not in (extra / "data.json").read_text()
    assert fingerprint.check_scored(extra, trained, "test") is None
    (photos / "red" / "7.png").write_text("changed")
    trained.data = images(value=1)
    with pytest.raises(RequestError, match="files were changed, added or removed"):
        fingerprint.check_scored(extra, trained, "test")


def test_only_a_held_out_split_may_change_before_it_is_scored(tmp_path, capsys):
    fingerprint.write(tmp_path, taken(images()))

    def scored(now, split="test"):
        return fingerprint.check_scored(tmp_path, task(now, classes=["blue", "red"]), split)

    assert scored(images(counts=(4, 2, 9))) == "test has 9 images and had 2"
    assert scored(images(counts=(4, 2, 9)), "validation") is None
    assert scored(images(counts=(9, 2, 2))) is None  # the test split is what it was
    with pytest.raises(RequestError, match=r"train has 9 images and had 4, test has 3 images and had 2; put the data"):
        scored(images(counts=(9, 2, 3)))
    with pytest.raises(RequestError, match="class 'blue' is now 'zebra'"):
        scored(images(("red", "zebra")))
    (tmp_path / "data.json").unlink()
    assert scored(images(counts=(9, 2, 3))) is None
    assert "data.json is missing: data that have changed since would not be noticed." in capsys.readouterr().err
    with pytest.raises(RequestError, match="class 'zebra' was added"):
        scored(images(("blue", "red", "zebra")))
