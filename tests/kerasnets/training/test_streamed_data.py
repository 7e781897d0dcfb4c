"""Trainings on files that are read while they train: the same numbers as in memory, and changes of a file."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small_runs import small_config

from kerasnets.checks import RequestError
from kerasnets.config.image_networks import ConvNetOptions
from kerasnets.data import data_file, image_files
from kerasnets.data.pair_file import PairFile
from kerasnets.data.splits import DataError
from kerasnets.tasks import make_task
from kerasnets.tasks.text_generation import task as text_task
from kerasnets.train import train

WORDS = ("eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben")


def sentences(count):
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, random.integers(1, 6))) for _ in range(count)]


def write_images(path):
    random = np.random.default_rng(0)
    for name in ("blue", "red"):
        (path / name).mkdir(parents=True)
        for n in range(20):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(path / name / f"{n}.png")


def write_text(path):
    path.write_text("\n".join(sentences(200)), "utf-8")


def write_pairs(path):
    path.write_text("".join(f"{n} {words}\t{words.upper()} {n}\n" for n, words in enumerate(sentences(300))), "utf-8")


WRITE = {"image_classification": write_images, "text_generation": write_text, "translation": write_pairs}


def make_config(task, path, epochs=1):
    config = small_config(task)
    training = dataclasses.replace(config.training, epochs=epochs, warmup_steps=0, batch_size=256)
    prefix = "file:"
    if task == "image_classification":
        training = dataclasses.replace(training, batch_size=8)
        config, prefix = dataclasses.replace(config, model=ConvNetOptions(filters=(4,)), image_size=6), "folder:"
    elif task == "text_generation":
        training = dataclasses.replace(training, batch_size=4)
        model = dataclasses.replace(config.model, units=8)
        config = dataclasses.replace(config, model=model, sequence_length=20)
    else:
        config = dataclasses.replace(config, vocabulary_size=400)
    return dataclasses.replace(config, dataset=f"{prefix}{path}", training=training)


def assert_equal(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, batch, other)


@pytest.fixture
def streaming(monkeypatch):
    """All data are too large for memory."""
    monkeypatch.setattr(data_file, "MEMORY_LIMIT", 1)
    monkeypatch.setattr(image_files, "MEMORY_LIMIT", 1)


@pytest.mark.parametrize("name", WRITE)
def test_streamed_data_are_the_data_in_memory(name, tmp_path, request):
    WRITE[name](tmp_path / "data")
    config = make_config(name, tmp_path / "data")
    whole = make_task(name, config)
    sizes, examples = whole.split_sizes(), whole.examples()
    request.getfixturevalue("streaming")
    streamed = make_task(name, config)
    assert (streamed.split_sizes(), streamed.examples()) == (sizes, examples)
    assert streamed.steps_per_epoch == whole.steps_per_epoch
    stop = 2 * whole.steps_per_epoch + 1
    batches = [list(task.training_batches(0, stop).as_numpy_iterator()) for task in (streamed, whole)]
    assert_equal(*batches)
    model = whole.model()
    assert_equal(*([next(task.validation_logits(model))] for task in (streamed, whole)))


def test_lengths_of_pairs_are_kept_for_runs_that_resume(tmp_path, monkeypatch, streaming):
    path = tmp_path / "pairs.tsv"
    write_pairs(path)
    task = make_task("translation", make_config("translation", path))
    sizes = task.split_sizes()
    task.save(tmp_path)
    resumed = make_task("translation", task.config, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(PairFile, "read_range", None)  # no pair is read again
        assert resumed.split_sizes() == sizes
    (tmp_path / "lengths.npz").write_bytes(b"damaged")
    assert make_task("translation", task.config, tmp_path).split_sizes() == sizes
    task.save(tmp_path)
    path.write_text("".join(reversed(path.read_text("utf-8").splitlines(keepends=True)[:100])), "utf-8")
    assert make_task("translation", task.config, tmp_path).split_sizes()["train"] == 90


def test_a_file_that_shrinks_ends_the_training_and_keeps_its_checkpoint(tmp_path, monkeypatch, streaming):
    path = tmp_path / "book.txt"
    write_text(path)
    content, text_batch = path.read_bytes(), text_task.text_batch
    config = make_config("text_generation", path, epochs=3)
    steps = make_task("text_generation", config).steps_per_epoch

    def shrink_later(ids, rows, length, seed, step):
        if step == 2 * steps:
            path.write_bytes(b"a" * 500)
        return text_batch(ids, rows, length, seed, step)

    with monkeypatch.context() as patch:
        patch.setattr(text_task, "text_batch", shrink_later)
        with pytest.raises(DataError, match=r"book\.txt has changed while it was in use \(it had [\d,]+ bytes and"):
            train("text_generation", "quick", config, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / f"ckpt-{steps}.index").exists()
    with pytest.raises(RequestError, match=r"has changed since .* was created: 1 file changed \(book\.txt\)"):
        train("text_generation", "quick", config, tmp_path / "run")
    path.write_bytes(content)
    assert train("text_generation", "quick", config, tmp_path / "run")["steps"] == 3 * steps
