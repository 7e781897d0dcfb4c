"""Models and requests for the server benchmark: `python -m benchmarks.serving_models DIRECTORY [IMAGE_MODEL]`.

For each model it writes a directory NAME with `models/NAME/1`, a SavedModel, and requests: `grpc` (a PredictRequest as
the body of an HTTP/2 request), `rest.json`, `peer.json` (the same array for a server that expects {"x": ...}) and
`call.json` (alias of the input, and the expected outputs). The models compute little, so that the server is measured:

* `vector`: x float32 [batch] -> x / 2 + 2; the request has four numbers.
* `image`: x float32 [batch, 28, 28, 1] -> the mean of each image [batch]; the request has one image, 16 kB in JSON.

IMAGE_MODEL, an exported image_classification, becomes `network` and `pixels`: a request has one image, as a PNG for the
signature `serving_default` or as an array for `pixels`.
"""

import base64
import json
import os
import struct
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2


def main(directory: str, image_model: str = "") -> None:
    out = Path(directory)
    generator = np.random.default_rng(0)
    image = generator.random((1, 28, 28, 1), np.float32)
    save(out, "vector", lambda x: {"y": x / 2 + 2}, np.array([1, 2, 5, 10], np.float32))
    save(out, "image", lambda x: {"y": tf.reduce_mean(x, [1, 2, 3])}, image)
    if image_model:
        signatures = tf.saved_model.load(image_model).signatures
        shape = signatures["pixels"].structured_input_signature[1]["pixels"].shape[1:]
        pixels = generator.integers(0, 256, shape).astype(np.float32)
        png = tf.io.encode_png(tf.cast(pixels, tf.uint8))[None]
        for name, signature, alias, array in [
            ("network", "serving_default", "image_bytes", png.numpy()),
            ("pixels", "pixels", "pixels", pixels[None]),
        ]:
            path = model_path(out, name)
            path.parent.mkdir(parents=True)
            path.symlink_to(Path(image_model).resolve())
            outputs = signatures[signature](**{alias: tf.constant(array)})
            write_requests(out / name, signature, alias, array, {key: value.numpy() for key, value in outputs.items()})


def save(out: Path, name: str, function, example: np.ndarray) -> None:
    """Write a model that computes `function`, with a free first axis, and its requests."""
    spec = tf.TensorSpec([None, *example.shape[1:]], example.dtype, "x")
    module = tf.Module()
    module.run = tf.function(function, input_signature=[spec])
    tf.saved_model.save(module, str(model_path(out, name)), signatures={"serving_default": module.run})
    write_requests(out / name, "serving_default", "x", example, {"y": module.run(tf.constant(example))["y"].numpy()})


def model_path(out: Path, name: str) -> Path:
    return out / name / "models" / name / "1"


def write_requests(out: Path, signature: str, alias: str, array: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = out.name
    request.model_spec.signature_name = signature
    request.inputs[alias].CopyFrom(tf.make_tensor_proto(array))
    message = request.SerializeToString()
    (out / "grpc").write_bytes(
        struct.pack(">?I", False, len(message)) + message
    )  # the prefix of a gRPC message: not compressed, length
    rows = [{"b64": base64.b64encode(row).decode()} for row in array] if array.dtype == object else array.tolist()
    (out / "rest.json").write_text(json.dumps({"signature_name": signature, "instances": rows}), "utf-8")
    (out / "peer.json").write_text(json.dumps({"x": rows}), "utf-8")
    numbers = {key: values.tolist() for key, values in outputs.items() if values.dtype != object}
    (out / "call.json").write_text(json.dumps({"alias": alias, "outputs": numbers}), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
