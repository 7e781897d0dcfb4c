"""Text to ids and back: characters for generation, subwords for translation.

All that a model needs at serving time is made of core TensorFlow string and lookup operations: the same functions run
in tf.data and in an exported graph, with nothing to import. Each has a twin in plain Python that says what the right
answer is; tests compare the two.

    B batch, T time (characters or subwords); strings are UTF-8.
"""
