"""Text to ids and back: characters for generation, subwords for translation.

Serving uses only core TensorFlow string and lookup operations: the same functions run in tf.data and in an exported
graph, with nothing to import. Each has a reference implementation in plain Python; tests compare the two.

    B batch, T time (characters or subwords); strings are UTF-8.
"""
