"""Batches of data in memory. The batch of a step is a function of the seed and the step alone, so that training resumes
exactly by starting at a step, with no state of an iterator to keep.

    B batch, T time steps or target positions, S source positions
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

Batch = dict[str, np.ndarray]
BUCKETS = 10


def epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """-> a permutation of 0 to size - 1, another one every epoch."""
    return np.random.default_rng((seed, epoch)).permutation(size)


def image_batch(images: np.ndarray, labels: np.ndarray, batch_size: int, seed: int, step: int) -> Batch:
    """-> pixels uint8 [B, Y, X, C], labels int32 [B]. The end of an epoch flows into the next, so all batches are full."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, within = np.divmod(places, len(images))
    chosen = np.concatenate([epoch_order(len(images), seed, e)[within[epochs == e]] for e in np.unique(epochs)])
    return {"pixels": images[chosen], "labels": labels[chosen]}


def text_steps(ids: np.ndarray, batch_size: int, length: int) -> int:
    """-> steps of an epoch: windows of `length` in each of `batch_size` parallel parts of the text."""
    steps = (len(ids) - length) // (batch_size * length)
    if steps < 1:
        raise ValueError(f"a text of {len(ids):,} characters is too short for {batch_size} rows of {length}.")
    return steps


def text_batch(ids: np.ndarray, batch_size: int, length: int, seed: int, step: int) -> Batch:
    """-> inputs and targets int32 [B, T], reset bool [B].

    Row b reads the b-th part of the text from step to step; `reset` is True where an epoch begins. Epochs begin at
    different offsets, so that the windows are cut at different places.
    """
    steps = text_steps(ids, batch_size, length)
    epoch, within = divmod(step, steps)
    offset = int(np.random.default_rng((seed, epoch)).integers(length))
    part = (len(ids) - length) // batch_size
    starts = offset + np.arange(batch_size)[:, np.newaxis] * part + within * length
    window = ids[starts + np.arange(length + 1)]
    return {"inputs": window[:, :-1], "targets": window[:, 1:], "reset": np.full(batch_size, within == 0)}


class LengthBuckets:
    """Pairs of sequences in batches of about the same length, in a fixed set of shapes.

    Pairs are sorted into buckets by the longer of their two lengths. All batches of a bucket have one shape: its longest
    source, its longest target, and as many rows as keep the target positions within `budget`. The last batch of a
    bucket is filled with rows of padding. 0 is padding.
    """

    def __init__(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], budget: int, seed: int):
        self.sources = [np.asarray(ids, np.int32) for ids in sources]
        self.targets = [np.asarray(ids, np.int32) for ids in targets]
        self.seed = seed
        source_lengths = np.array([len(ids) for ids in sources])
        target_lengths = np.array([len(ids) for ids in targets])
        lengths = np.maximum(source_lengths, target_lengths)
        edges = np.unique(np.quantile(lengths, np.linspace(0, 1, BUCKETS + 1)[1:], method="higher"))
        bucket = np.searchsorted(edges, lengths)
        self.members = [np.flatnonzero(bucket == b) for b in range(len(edges))]
        widths = [(source_lengths[m].max(), target_lengths[m].max()) for m in self.members]
        self.shapes = [(max(1, budget // int(t)), int(s), int(t)) for s, t in widths]
        self.batches = [-(-len(m) // rows) for m, (rows, _, _) in zip(self.members, self.shapes, strict=True)]
        self._epoch, self._plan = -1, []

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def steps_per_epoch(self) -> int:
        return sum(self.batches)

    @property
    def padding(self) -> float:
        """Share of the positions that is padding."""
        cells = sum(n * rows * (s + t) for n, (rows, s, t) in zip(self.batches, self.shapes, strict=True))
        return 1 - sum(map(len, self.sources + self.targets)) / cells

    def batch(self, step: int) -> Batch:
        """-> source int32 [B, S], target int32 [B, T]."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self._plan_epoch(epoch)
        bucket, members = self._plan[within]
        rows, source_width, target_width = self.shapes[bucket]
        source, target = np.zeros((rows, source_width), np.int32), np.zeros((rows, target_width), np.int32)
        for row, n in enumerate(members):
            source[row, : len(self.sources[n])] = self.sources[n]
            target[row, : len(self.targets[n])] = self.targets[n]
        return {"source": source, "target": target}

    def _plan_epoch(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        random = np.random.default_rng((self.seed, epoch))
        plan = []
        for bucket, (members, (rows, _, _)) in enumerate(zip(self.members, self.shapes, strict=True)):
            order = random.permutation(members)
            plan += [(bucket, order[start : start + rows]) for start in range(0, len(order), rows)]
        return [plan[n] for n in random.permutation(len(plan))]


def to_dataset(batch: Callable[[int], Batch], start: int, stop: int) -> tf.data.Dataset:
    """-> the batches of steps `start` to `stop` - 1, made ahead of their use. Shapes are left open but for what no batch
    changes (the size of a picture), so that one graph runs them all."""
    first = batch(start)
    spec = {
        name: tf.TensorSpec((None, None) if array.ndim == 2 else (None, *array.shape[1:]), array.dtype)
        for name, array in first.items()
    }
    dataset = tf.data.Dataset.from_generator(lambda: map(batch, range(start, stop)), output_signature=spec)
    return dataset.prefetch(tf.data.AUTOTUNE)
