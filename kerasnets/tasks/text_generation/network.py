"""The interface of a network for text generation.   B batch, T characters, U numbers of a state, V vocabulary"""

from typing import Any, Protocol

import tensorflow as tf


class TextNetwork(Protocol):
    """A network that predicts the next character, beside its call: tokens int [B, T] -> logits [B, T, V].

    What it remembers of a text are its states: nested tensors [B, U] of fixed sizes.

    Attributes:
        vocabulary_size: V.
        context: positions that a step attends to, which bounds the parts in which a prompt is read; None: any.
    """

    vocabulary_size: int
    context: int | None

    def initial_states(self, batch: Any) -> Any:
        """-> the states before the first character."""

    def run(
        self, tokens: tf.Tensor, states: Any = None, valid: tf.Tensor | None = None, training: bool | None = None
    ) -> tuple[tf.Tensor, Any]:
        """tokens int [B, T]; valid bool [B, T], False = padding at the end -> logits [B, T, V], the next states."""

    def step(self, token: tf.Tensor, index: Any, memory: Any, cache: Any) -> tuple[tf.Tensor, Any]:
        """As `run` for one character, token int [B], from the states `cache`, whose types it keeps; the other two
        arguments, of searches, are not used -> logits [B, V], the next states."""

    def valid_states(self, states: Any) -> tf.Tensor:
        """States of finite numbers -> bool [B], whether `run` may have returned them."""

    def explain(self, tokens: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """tokens int [B, T] -> logits [B, T, V] of each, before it is read; what the network shows of itself by name,
        each [B, T, ...]."""
