"""The training of translations: R-Drop, and segmentations that are drawn anew."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, normal

from kerasnets.checks import RequestError
from kerasnets.config.run import Training
from kerasnets.config.text_networks import TransformerOptions
from kerasnets.data import cldr
from kerasnets.data.splits import PairSplits
from kerasnets.tasks.losses import cross_entropy, symmetric_divergence
from kerasnets.tasks.translation.facts import Translation
from kerasnets.tasks.translation.task import TranslationTask

START, END = 1, 2
BATCH = {
    "source": np.array([[300, 301, END], [302, END, 0], [0, 0, 0]], np.int32),
    "target": np.array([[START, 300, 301, END], [START, 302, END, 0], [0, 0, 0, 0]], np.int32),
}


def make_task(**options):
    config = Translation(
        dataset="cldr",
        vocabulary_size=500,
        max_length=40,
        seed=3,
        training=Training(batch_size=600, label_smoothing=0.1),
        **options,
    )
    task = TranslationTask(config)
    pairs = cldr.pairs()[:240:2]
    sides = [list(side) for side in zip(*pairs, strict=True)]
    task.data = PairSplits(sides, sides, sides, "some pairs")
    return task


def passes(*logits):
    """-> a model that returns these logits, one after the other."""
    remaining = list(logits)

    def model(inputs, training):
        assert inputs["target"].shape == (3, 3)
        return remaining.pop(0)

    return model


# R-Drop.


def test_r_drop_adds_the_divergence_of_two_passes():
    task, targets = make_task(r_drop=3.0), BATCH["target"][:, 1:]
    p, q = (tf.constant(normal(3, 3, 310, seed=seed)) for seed in (0, 1))
    loss, weight, _ = task.loss(passes(p, q), BATCH, (), training=True)
    both = (cross_entropy(p, targets, 0.1) + cross_entropy(q, targets, 0.1)) / 2
    expected = tf.reduce_sum((both + 1.5 * symmetric_divergence(p, q)) * (targets != 0))
    assert float(weight) == 5
    assert_close(loss, expected)
    # Padding has no effect.
    padding = (targets == 0)[..., np.newaxis] * np.float32(9) * normal(3, 3, 310, seed=2)
    assert_close(task.loss(passes(p + padding, q - padding), BATCH, (), training=True)[0], expected)


def test_r_drop_of_equal_passes_is_the_loss_of_one():
    p = tf.constant(normal(3, 3, 310))
    expected = make_task().loss(passes(p), BATCH, (), training=True)
    assert_close(make_task(r_drop=3.0).loss(passes(p, p), BATCH, (), training=True)[:2], expected[:2])


def test_validation_needs_one_pass():
    p = tf.constant(normal(3, 3, 310))
    losses = [make_task(r_drop=r).loss(passes(p), BATCH, (), training=False)[0] for r in (0.0, 3.0)]
    assert_close(losses[0], losses[1], 0)


def test_the_passes_of_a_network_differ():
    options = TransformerOptions(width=8, num_heads=2, hidden_units=8, num_blocks=1, dropout=0.3)
    losses = []
    for r_drop in (1e-9, 1.0):
        keras.utils.set_random_seed(0)
        task = make_task(r_drop=r_drop, model=options)
        model = options.build(vocabulary_size=310, max_length=40)
        losses.append(float(task.loss(model, BATCH, (), training=True)[0]))
    assert losses[1] > losses[0] + 1e-4


# Segmentations.


def texts(task, batch):
    """-> the pairs of a batch as texts."""
    sides = [[task.vocabulary.detokenize_python(row) for row in batch[side].tolist()] for side in ("source", "target")]
    return list(zip(*sides, strict=True))


def test_sampled_batches_have_the_pairs_of_the_others():
    task, plain = make_task(subword_sampling=0.2), make_task()
    steps = 2 * task.steps_per_epoch
    assert task.steps_per_epoch == plain.steps_per_epoch
    for ours, theirs in zip(task.training_batches(0, steps), plain.training_batches(0, steps), strict=True):
        ours, theirs = ({side: ids.numpy() for side, ids in batch.items()} for batch in (ours, theirs))
        assert texts(task, ours) == texts(plain, theirs)
        filled = ours["target"].any(axis=1)
        assert (ours["target"][filled, 0] == START).all()
        assert all(((ids == END).sum(axis=1) == filled).all() for ids in ours.values())
        assert ours["source"].shape[1] <= 41 and ours["target"].shape[1] <= 42


def test_sampled_batches_depend_only_on_seed_and_step():
    task, again = make_task(subword_sampling=0.2), make_task(subword_sampling=0.2)
    steps = 2 * task.steps_per_epoch
    forward = [batch["source"].numpy() for batch in task.training_batches(0, steps)]
    for step in reversed(range(steps)):
        assert np.array_equal(forward[step], again._training_batch(step)["source"])

    first, second = (
        {
            (again.vocabulary.detokenize_python(row), *row[row != 0].tolist())
            for batch in forward[epoch * task.steps_per_epoch : (epoch + 1) * task.steps_per_epoch]
            for row in batch
        }
        for epoch in (0, 1)
    )
    assert len(first & second) < len(first) / 2  # most sentences have another segmentation


def test_validation_has_the_most_probable_segmentations():
    ours, theirs = (task._validation.batch(0)["source"] for task in (make_task(subword_sampling=0.2), make_task()))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r_drop": -1.0}, r"r_drop is -1\.0; it must be 0 or more"),
        ({"subword_sampling": -0.1}, r"subword_sampling is -0\.1; it must be 0 or more"),
        ({"r_drop": 5.0, "model": TransformerOptions(dropout=0.0)}, r"r_drop is 5\.0; it must be 0, since the network"),
    ],
)
def test_invalid_options_raise_request_error(options, message):
    with pytest.raises(RequestError, match=message):
        dataclasses.replace(Translation(dataset="cldr"), **options)
