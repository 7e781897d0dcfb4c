"""These tests run on the other backends only: on TensorFlow the other tests check the same and more."""

import os

collect_ignore = [] if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow" else ["test_backends.py"]
