"""What a person sees of a training: progress, samples, TensorBoard, learning curves."""

import collections
import functools
import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from test_training import assert_same_run, run_files
from training_tasks import CharactersWithDropout, Images, Pairs

from kerasnets.run.directory import RunDirectory
from kerasnets.tasks.samples import Samples
from kerasnets.training import display, progress
from kerasnets.training.curves import draw_curves
from kerasnets.training.loop import train
from kerasnets.training.progress import Progress, format_time
from kerasnets.training.samples import draw_images, format_samples, to_markdown
from kerasnets.training.strategies import make_strategy

# Samples.

DIGITS = Samples("errors", [{"label": "3", "prediction": "eight"}, {"label": "10", "prediction": "1"}])
TEXTS = Samples(
    "translations",
    [
        {"source": "A short sentence.", "translation": "Ein kurzer Satz, der ein wenig zu lang geraten ist."},
        {"source": "a\x1b[2J\nb", "translation": ""},
    ],
)


def test_short_samples_are_a_table():
    expected = "errors\n  label  prediction\n  3      eight\n  10     1"
    assert format_samples(DIGITS) == expected


def test_long_samples_are_aligned_blocks_of_printable_lines():
    lines = format_samples(TEXTS, width=50).split("\n")
    assert lines == [
        "translations",
        "  source       A short sentence.",
        "  translation  Ein kurzer Satz, der ein wenig zu",
        "               lang geraten ist.",
        "",
        "  source       a\\x1b[2J",
        "               b",
        "  translation",
    ]


def test_a_very_long_text_is_cut():
    lines = format_samples(Samples("t", [{"text": "word " * 100}]), width=40).split("\n")
    assert len(lines) == 5 and lines[-1].endswith(" …") and max(map(len, lines)) <= 40


def test_samples_without_rows_are_their_title():
    nothing = Samples("no errors", [])
    assert format_samples(nothing) == to_markdown(nothing) == "no errors"


def test_markdown_shows_every_character():
    table = to_markdown(Samples("t", [{"text": "a|b\n<c> *d*"}])).split("\n")
    assert table[2:] == ["| text |", "| --- |", "| a&#124;b<br>&lt;c> &#42;d&#42; |"]


def test_the_picture_shows_the_images():
    images = np.zeros((5, 8, 8, 3), np.uint8)
    rows = [{"image": str(n), "label": "cat"} for n in range(5)]
    black = draw_images(Samples("errors", rows, images))
    images[4, :, :, 0] = 255
    red = draw_images(Samples("errors", rows, images))
    assert black.dtype == np.uint8 and black.shape == red.shape and black.shape[2] == 3
    changed = (black != red).any(axis=2)
    assert 0.02 < changed.mean() < 0.2
    assert np.flatnonzero(changed.any(axis=1))[0] > len(changed) / 2  # the fifth image is in the second row


# The progress.


class FakeTime:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def fake_time(monkeypatch):
    time = FakeTime()
    monkeypatch.setattr(progress, "time", time)
    return time


def test_progress_lines_estimate_the_time_left_without_the_first_step(fake_time, capsys):
    lines = Progress(10, 20)
    for step, seconds in ((11, 60), (12, 2), (13, 10), (20, 14)):
        fake_time.now += seconds
        lines.update(step, f"loss {step}")
    printed = capsys.readouterr().err.splitlines()
    # From step 11 on, two steps took 12 s; so seven take 42 s.
    assert printed == ["step 11/20  loss 11", "step 13/20  0:42 left  loss 13", "step 20/20  0:00 left  loss 20"]


def test_progress_is_a_bar_on_a_terminal(fake_time, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = Progress(0, 4)
    for step in (1, 2, 3, 4):
        fake_time.now += 1
        bar.update(step, "loss 1")
    bar.write("epoch 1/1")
    bar.close()
    printed = capsys.readouterr().err
    assert "epoch 1/1" in printed and "step 4/4  0:00 left  loss 1" in printed


def test_times_have_hours_if_needed():
    assert [format_time(s) for s in (0.4, 59.6, 3599, 3600, 90061)] == ["0:00", "1:00", "59:59", "1:00:00", "25:01:01"]


# A training.


@pytest.fixture(scope="module")
def shown_run(tmp_path_factory):
    """-> directory of a run of `Pairs`, whose batches have padding."""
    directory = tmp_path_factory.mktemp("shown") / "run"
    train(Pairs(epochs=3), make_strategy("one_device"), RunDirectory(directory))
    return directory


def test_the_rate_counts_the_weight_without_padding(shown_run):
    task = Pairs()
    batches = task.training_batches(0, 9)
    tokens = [int(np.count_nonzero(batch["target"][:, 1:])) for batch in batches]
    entries = [json.loads(line) for line in (shown_run / "log.jsonl").read_text("utf-8").splitlines()]
    entries = [entry for entry in entries if entry["kind"] == "training"]
    counts = [entry["rows_per_second"] * entry["step_seconds"] for entry in entries]
    assert [entry["step"] for entry in entries] == [3, 6, 9]
    np.testing.assert_allclose(counts, np.sum(np.reshape(tokens, (3, 3)), axis=1), rtol=0.1)  # seconds are rounded


def read_summaries(directory):
    """-> {tag: its steps}"""
    steps = collections.defaultdict(list)
    for file in sorted(directory.iterdir()):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                steps[value.tag].append(event.step)
    return dict(steps)


def test_tensorboard_shows_values_of_steps_and_validations_and_samples(shown_run):
    steps = read_summaries(shown_run / "logs")
    names = ("loss", "learning_rate", "rows_per_second", "data_wait")
    each_epoch = {f"training/{name}": [3, 6, 9] for name in names} | {"validation/score": [3, 6, 9]}
    assert {tag: s for tag, s in steps.items() if tag != "samples"} == each_epoch
    assert sorted(steps["samples"]) == [3, 3, 9, 9]  # text and image; epoch 2 came a moment later


def png_size(path):
    return tf.image.decode_png(path.read_bytes()).shape[:2]


def test_curves_are_drawn_for_a_run(shown_run):
    assert png_size(shown_run / "curves.png") == (825, 880)
    assert not list(shown_run.glob(".*"))


def test_curves_have_a_panel_for_each_metric(tmp_path):
    training = [{"step": 5, "loss": 2.0, "learning_rate": 0.1}]
    validation = [{"kind": "validation", "step": 10, "epoch": 1, "seconds": 3.0, "loss": 1.0}]
    draw_curves(training, validation, validation[0], 10, tmp_path / "one.png")
    validation[0] |= {"bleu": 20.0, "chrf": 40.0}
    draw_curves(training, validation, validation[0], 10, tmp_path / "three.png")
    assert png_size(tmp_path / "one.png")[0] + 440 == png_size(tmp_path / "three.png")[0]


def test_curves_of_an_interrupted_run_are_complete(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(display, "draw_curves", lambda training, validation, *_: drawn.append(len(validation)))
    with pytest.raises(InterruptedError):
        train(Images(epochs=4, stop_at=4), make_strategy("one_device"), RunDirectory(tmp_path))
    assert drawn == [1, 3]


@pytest.mark.parametrize(("seconds", "expected"), [(0, [3, 6, 9]), (1e6, [3, 9])])
def test_samples_are_shown_after_each_epoch_but_not_too_often(seconds, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(display, "SECONDS_BETWEEN_PICTURES", seconds)
    monkeypatch.setattr(display, "draw_curves", lambda *_: None)
    train(Images(epochs=3), make_strategy("one_device"), RunDirectory(tmp_path))
    assert read_summaries(tmp_path / "logs")["samples"][::2] == expected
    printed = capsys.readouterr().err
    assert printed.count("losses\n  loss\n") == len(expected)
    assert "rows/s (25% padding)  data wait " in printed or "rows/s (25% padding)  validation score " in printed


def test_samples_do_not_change_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(display, "SECONDS_BETWEEN_PICTURES", 0)
    monkeypatch.setattr(display, "draw_curves", lambda *_: None)
    make, results = functools.partial(CharactersWithDropout, epochs=2), []
    for name in ("with", "without"):
        task = make()
        if name == "without":
            monkeypatch.setattr(task, "samples", lambda model: None)
        train(task, make_strategy("one_device"), RunDirectory(tmp_path / name))
        results.append(run_files(tmp_path / name))
    assert_same_run(*results)
