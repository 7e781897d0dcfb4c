"""SavedModels with operations of TF Text are served if tensorflow_text is installed."""

import asyncio
import subprocess
import sys

import numpy as np
from serving_helpers import run_call
from tensorflow_serving.apis import predict_pb2

from serving.api.predict import Settings, predict
from serving.errors import StatusError
from serving.server.loader import Loader
from serving.settings.flags import Flags
from serving.settings.load_options import load_options_of
from serving.telemetry.metrics import Metrics

BUILD = """
import sys, tensorflow as tf, tensorflow_text as text

@tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
def split(text_):
    return {"words": text.WhitespaceTokenizer().tokenize(text_).to_tensor("")}

tf.saved_model.save(tf.Module(), sys.argv[1], signatures={"serving_default": split})
"""


def test_tf_text_is_imported_on_demand(tmp_path, monkeypatch):
    """A separate process builds the model, so that this one has not imported tensorflow_text."""
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path / "1")], check=True, capture_output=True, timeout=600)
    loader = Loader(load_options_of(Flags()), Settings(), Metrics(), asyncio.new_event_loop(), None)
    if "tensorflow_text" not in sys.modules:
        with monkeypatch.context() as absent:
            absent.setitem(sys.modules, "tensorflow_text", None)  # as if it were not installed
            with np.testing.assert_raises(StatusError):
                loader("m", 1, str(tmp_path / "1"))
    servable = loader("m", 1, str(tmp_path / "1"))
    request = predict_pb2.PredictRequest()
    (name,) = servable.signatures["serving_default"].inputs
    request.inputs[name].dtype = 7
    request.inputs[name].tensor_shape.dim.add(size=1)
    request.inputs[name].string_val.append(b"to be or not")
    response = run_call(servable, predict(servable, 1, request, Settings()))
    servable.close()
    assert list(response.outputs["words"].string_val) == [b"to", b"be", b"or", b"not"]
