"""On TensorFlow the other tests check all this, and more: here only the other backends are run."""

import os

collect_ignore = [] if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow" else ["test_backends.py"]
