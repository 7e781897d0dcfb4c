"""A small case of every layer and model, with equal weights and inputs on every backend, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from kerasnets import layers, models

B, T, D = 2, 5, 6


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype(np.float32)


def tokens(*shape: int, vocabulary: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(1, vocabulary, shape).astype(np.int32)


@dataclass(frozen=True)
class Case:
    make: Callable[[], keras.layers.Layer]
    inputs: dict[str, Any]
    call: dict[str, Any] = field(default_factory=dict)


def sequence(**more: Any) -> dict[str, Any]:
    return {"x": normal(B, T, D), **more}


VALID = np.array([[True] * T, [True] * 3 + [False] * (T - 3)])
IMAGE = {"x": normal(B, 6, 8, 4)}
IMAGES = normal(B, 8, 8, 2, scale=99.0)
PAIRS = {"source": tokens(B, T), "target": tokens(B, 4, seed=1)}
MASK = normal(B, T, T, seed=2) > -0.5
MEMORY = normal(B, 4, D, seed=3)
ALL_OPTIONS = {
    "recurrent_dropout": 0.3,
    "peepholes": True,
    "layer_norm": True,
    "projection": 3,
    "recurrent_weight_dropout": 0.3,
}

LAYERS = {
    "ConvBlock": Case(lambda: layers.ConvBlock(3, pool_size=2, dropout=0.3), IMAGE),
    "ConvBlock strided": Case(lambda: layers.ConvBlock(4, strides=2, groups=2, normalization=None), IMAGE),
    "ResidualBlock": Case(lambda: layers.ResidualBlock(6, strides=2), IMAGE),
    "LocallyConnected2D": Case(lambda: layers.LocallyConnected2D(3), IMAGE),
    "GlobalPooling": Case(lambda: layers.GlobalPooling("max"), IMAGE),
    "SimpleRNN": Case(lambda: layers.RNN(layers.SimpleRNNCell(4), truncate=2), sequence(valid=VALID)),
    "LSTM": Case(lambda: layers.LSTM(4), sequence()),
    "LSTM masked": Case(lambda: layers.LSTM(4, reverse=True), sequence(valid=VALID)),
    "LSTM truncated": Case(lambda: layers.LSTM(4, truncate=2), sequence()),
    "LSTM with all options": Case(lambda: layers.LSTM(4, **ALL_OPTIONS), sequence()),
    "Bidirectional": Case(lambda: layers.Bidirectional(layers.LSTM(3)), sequence(valid=VALID)),
    "StackedRNN": Case(lambda: layers.StackedRNN([layers.LSTM(4), layers.LSTM(3)], 0.3), sequence()),
    "AdditiveAttention": Case(lambda: layers.AdditiveAttention(5), {"query": normal(B, T, D), "memory": MEMORY}),
    "MultiplicativeAttention": Case(layers.MultiplicativeAttention, {"query": normal(B, T, D), "memory": MEMORY}),
    "MultiHeadAttention": Case(
        lambda: layers.MultiHeadAttention(3, dropout=0.3), {"query": normal(B, T, D), "attention_mask": MASK}
    ),
    "MultiHeadAttention cross": Case(
        lambda: layers.MultiHeadAttention(2), {"query": normal(B, T, D), "memory": MEMORY}
    ),
    "MultiHeadAttention grouped": Case(
        lambda: layers.MultiHeadAttention(3, num_key_value_heads=1, rotary=True),
        {"query": normal(B, T, D)},
        {"causal": True},
    ),
    "FeedForward": Case(lambda: layers.FeedForward(8), sequence()),
    "FeedForward gated": Case(lambda: layers.FeedForward(8, "swiglu"), sequence()),
    "LayerNormalization": Case(layers.LayerNormalization, sequence()),
    "Linear": Case(lambda: layers.Linear(4), sequence()),
    "PositionalEncoding": Case(layers.PositionalEncoding, sequence(), {"start": 3}),
    "LearnedPositions": Case(lambda: layers.LearnedPositions(9), sequence()),
    "WordDropout": Case(lambda: layers.WordDropout(0.3), sequence(tokens=tokens(B, T))),
    "EncoderBlock": Case(
        lambda: layers.EncoderBlock(2, 8, 0.3, feed_forward_dropout=0.3), sequence(attention_mask=MASK)
    ),
    "DecoderBlock": Case(lambda: layers.DecoderBlock(2, 8, 0.3, "pre"), sequence(memory=MEMORY)),
}

MODELS = {
    "ConvNet": Case(lambda: models.ConvNet(3, (4, 6), dropout=0.3), {"pixels": IMAGES}),
    "ConvNet residual": Case(lambda: models.ConvNet(3, (4, 6), residual_blocks=1), {"pixels": IMAGES}),
    "ConvNet flat": Case(lambda: models.ConvNet(3, (4,), norm="none", head="flatten", hidden=(5,)), {"pixels": IMAGES}),
    "CharLSTM": Case(lambda: models.CharLSTM(9, 4, 5, dropout=0.3), {"tokens": tokens(B, T)}),
    "CharLSTM regularized": Case(
        lambda: models.CharLSTM(9, 4, 5, dropout=0.3, variational=True, recurrent_weight_dropout=0.3, word_dropout=0.3),
        {"tokens": tokens(B, T)},
    ),
    "CharLSTM tied": Case(lambda: models.CharLSTM(9, 5, 5, tied=True), {"tokens": tokens(B, T)}),
    "SequenceTagger": Case(
        lambda: models.SequenceTagger(3, keras.layers.Embedding(9, 4), 5), {"sequence": tokens(B, T)}
    ),
    "SequenceClassifier": Case(lambda: models.SequenceClassifier(3, models.PixelRows(), 5), {"sequence": IMAGES}),
    "SequenceGenerator": Case(
        lambda: models.SequenceGenerator(9, models.ConvNet(6, (4,)), 4, 5),
        {"inputs": {"given": IMAGES, "target": tokens(B, 4)}},
    ),
    **{
        f"Seq2SeqLSTM {kind}": Case(lambda kind=kind: models.Seq2SeqLSTM(9, 4, 6, attention=kind), {"inputs": PAIRS})
        for kind in ("additive", "multiplicative", "none")
    },
    **{
        f"Transformer {kind}": Case(
            lambda kind=kind, norm=norm: models.Transformer(9, 8, 2, 12, 2, 0.1, norm, positions=kind, max_length=20),
            {"inputs": PAIRS},
        )
        for kind, norm in (("sinusoidal", "post"), ("learned", "pre"), ("rotary", "pre"))
    },
    "EncoderTransformer": Case(lambda: models.EncoderTransformer(9, 8, 2, 12, 2), {"tokens": tokens(B, T)}),
    "DecoderTransformer": Case(lambda: models.DecoderTransformer(9, 8, 2, 12, 2), {"tokens": tokens(B, T)}),
    "VisionTransformer": Case(lambda: models.VisionTransformer(3, 4, 8, 2, 12, 2, 0.1), {"pixels": IMAGES}),
}


def build_with_fixed_weights(case: Case) -> keras.layers.Layer:
    """-> the layer, with weights that depend only on their number and shape."""
    layer = case.make()
    layer(**case.inputs, **case.call)
    for n, weight in enumerate(w for w in layer.weights if "seed_generator" not in w.path):
        value = normal(*weight.shape, seed=n + 1, scale=0.3)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)
    return layer


def outputs(case: Case) -> list[np.ndarray]:
    results = build_with_fixed_weights(case)(**case.inputs, **case.call)
    return [np.asarray(keras.ops.convert_to_numpy(x)) for x in keras.tree.flatten(results)]
