"""Samples that the tasks show during a training."""

import numpy as np
import pytest
from small_runs import TASKS, small_config

from kerasnets.tasks import make_task


@pytest.fixture(scope="module", params=TASKS)
def sampled(request):
    """-> a task; its untrained model; its samples; the model's variables, random states included, before and after."""
    task = make_task(request.param, small_config(request.param))
    model = task.model()
    before = [v.numpy() for v in model.variables]
    samples = task.samples(model)
    return task, model, samples, before, [v.numpy() for v in model.variables]


def test_samples_change_no_weight_and_no_random_state(sampled):
    *_, before, after = sampled
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_samples_are_few_and_the_same_for_the_same_weights(sampled):
    task, model, samples, *_ = sampled
    assert 1 <= len(samples.rows) <= 8
    assert task.samples(model).rows == samples.rows


def test_samples_are_those_of_the_task(sampled):
    task, model, samples, *_ = sampled
    if task.name == "image_classification":
        pixels, labels = task.data.validation
        probabilities = task.signatures(model)["pixels"](pixels=pixels.astype(np.float32))["probabilities"].numpy()
        scores = []
        for row, image in zip(samples.rows, samples.images, strict=True):
            n = int(row["image"])
            assert row["label"] == task.classes[labels[n]] != row["prediction"]
            assert row["prediction"] == task.classes[probabilities[n].argmax()]
            np.testing.assert_array_equal(image, pixels[n])
            scores.append(probabilities[n].max())
        wrong = probabilities.argmax(axis=1) != labels
        np.testing.assert_allclose(scores, np.sort(probabilities[wrong].max(axis=1))[::-1][:8], rtol=1e-5)
        assert samples.title.startswith(f"{wrong.sum()} of the first 176 validation images")
    elif task.name == "text_generation":
        assert [row["prompt"] for row in samples.rows] == [e["prompt"] for e in task.examples()[:2]]
        assert {len(row["generated"]) for row in samples.rows} == {150}
        assert samples.rows[0]["generated"] != samples.rows[1]["generated"]
    else:
        pairs = set(zip(*task.data.validation, strict=True))
        assert len(samples.rows) == 3
        assert all((row["source"], row["reference"]) in pairs for row in samples.rows)
        translate = task.signatures(model)["serving_default"]
        for row in samples.rows:
            assert task.predict({"serving_default": translate}, row["source"]) == row["translation"]


def test_units_are_those_of_the_weight(sampled):
    task, model, *_ = sampled
    batch = next(iter(task.training_batches(0, 1)))
    _, weight, _ = task.loss(model, batch, task.initial_carry(), training=False)
    counts = {
        "images": lambda: batch["labels"].shape[0],
        "characters": lambda: np.size(batch["targets"]),
        "tokens": lambda: np.count_nonzero(batch["target"][:, 1:]),
    }
    assert weight == counts[task.weight_unit]()
    assert 0 < task.padding < 0.5 if task.weight_unit == "tokens" else task.padding == 0
