"""TFLite models: the interface of a SavedModel, inputs of any size, and errors as statuses."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from flatbuffers import Builder, flexbuffers
from google.protobuf import text_format
from serving_helpers import run_call
from tensorflow.core.framework import tensor_shape_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow_serving.apis import classification_pb2, predict_pb2

from serving.api.inference import classify
from serving.api.predict import Settings, predict
from serving.engine import tflite as tflite
from serving.engine.servable import Servable
from serving.engine.tflite import TFLiteServable
from serving.errors import StatusError
from serving.models.storage import TFLITE_NAME

FUNCTIONS = {
    "half": (lambda x: x / 2 + 2, [tf.TensorSpec([None, 2], tf.float32, "x")]),
    "doubled": (lambda x: x * 2, [tf.TensorSpec([], tf.float32, "x")]),
    "swapped": (lambda text: tf.gather(text, [1, 0]), [tf.TensorSpec([None], tf.string, "text")]),
    "first": (lambda text: tf.gather(text, 0), [tf.TensorSpec([None], tf.string, "text")]),
    "picked": (
        lambda x, i: tf.gather(x, i),
        [tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([None], tf.int32, "i")],
    ),
    "reshaped": (
        tf.reshape,
        [tf.TensorSpec([None], tf.float32, "x"), tf.TensorSpec([None], tf.int32, "i")],
    ),
    "dense": (
        lambda x: tf.nn.softmax(x @ [[1.0, 2], [3, 4], [5, 6]]),
        [tf.TensorSpec([None, 3], tf.float32, "x")],
    ),
    "maps": (
        lambda x: tf.nn.conv2d(x, tf.ones([3, 3, 1, 2]), 1, "SAME"),
        [tf.TensorSpec([None, 4, 4, 1], tf.float32, "x")],
    ),
    "mean": (lambda x: tf.reduce_mean(x * 2, 1), [tf.TensorSpec([None, 2], tf.float32, "x")]),
    "product": (
        lambda a, b: a @ b,
        [tf.TensorSpec([None, 3], tf.float32, "a"), tf.TensorSpec([3, None], tf.float32, "b")],
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{name: content} of converted functions; `exported` is converted from the SavedModel at `path`."""
    path = tmp_path_factory.mktemp("exported") / "1"
    contents = {}
    for name, (function, specs) in FUNCTIONS.items():
        module = tf.Module()
        module.function = tf.function(function, input_signature=specs)
        concrete = module.function.get_concrete_function()
        contents[name] = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert()
    module = tf.Module()
    function = tf.function(lambda x: {"y": x * 3 - 1}, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(path), signatures={"serving_default": function})
    contents["exported"] = tf.lite.TFLiteConverter.from_saved_model(str(path)).convert()
    (path / TFLITE_NAME).write_bytes(contents["exported"])
    contents["path"] = path
    return contents


@pytest.fixture
def load(models, tmp_path):
    """load(name or content of a model, interpreters) -> servable."""
    loaded = []

    def load(model, interpreters=1):
        (tmp_path / TFLITE_NAME).write_bytes(models[model] if isinstance(model, str) else model)
        loaded.append(TFLiteServable(str(tmp_path), interpreters))
        return loaded[-1]

    yield load
    for servable in loaded:
        servable.close()


def failure(function, *arguments):
    with pytest.raises(StatusError) as caught:
        function(*arguments)
    return caught.value.code, caught.value.message


def run_model(servable, *arrays):
    """Return the only output; `arrays` are the inputs, in the order of their names."""
    (signature,) = servable.signatures.values()
    feeds = dict(zip(sorted(each.tensor for each in signature.inputs.values()), arrays, strict=True))
    (array,) = servable.run(feeds, tuple(signature.outputs.values()))
    return array


def floats(*values):
    return np.array(values, np.float32)


def strings(*values):
    return np.array(values, object)


def with_signatures(content, signatures):
    """Add signatures to the metadata of a model; bytes are stored unchanged."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    if isinstance(signatures, bytes):
        stored = signatures
    else:
        builder = flexbuffers.Builder()
        with builder.Map():
            for name, definition in signatures.items():
                builder.Key(name)
                builder.String(definition.SerializeToString().decode("latin-1"))
        stored = bytes(builder.Finish())
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(stored, np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = "signature_defs_metadata", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    writer = Builder(1024)
    writer.Finish(model.Pack(writer), b"TFL3")
    return bytes(writer.Output())


def signature(inputs, outputs, method="predict"):
    definition = meta_graph_pb2.SignatureDef(method_name=f"tensorflow/serving/{method}")
    for field, names in ((definition.inputs, inputs), (definition.outputs, outputs)):
        for alias, name in names.items():
            field[alias].name, field[alias].dtype = name, tf.float32.as_datatype_enum
    return definition


def test_default_signature_has_the_models_tensors(load):
    """Its aliases are the names of the tensors without the output index."""
    servable = load("half")
    (definition,) = servable.signature_defs.values()
    assert list(servable.signature_defs) == ["serving_default"]
    assert definition.method_name == "tensorflow/serving/predict"
    shape = text_format.Parse("dim { size: 1 } dim { size: 2 }", tensor_shape_pb2.TensorShapeProto())
    for infos in (definition.inputs, definition.outputs):
        ((alias, info),) = infos.items()
        assert (info.name, info.dtype, info.tensor_shape) == (f"{alias}:0", tf.float32.as_datatype_enum, shape)
    assert list(definition.inputs) == ["serving_default_x"]


def test_results_equal_those_of_the_saved_model(models):
    results = []
    for servable in (
        TFLiteServable(str(models["path"]), 1),
        Servable(str(models["path"]), ["serve"], config_pb2.ConfigProto()),
    ):
        results.append(run_model(servable, floats(1, -2.5, 0.25, 1000)))
        servable.close()
    assert results[0].dtype == results[1].dtype == np.float32
    np.testing.assert_array_equal(*results)


def test_predict(load):
    servable = load("half")
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "lite"
    request.inputs["serving_default_x"].CopyFrom(tf.make_tensor_proto(floats([1, 2], [3, 4])))
    response = run_call(servable, predict(servable, 5, request, Settings()))
    (output,) = response.outputs.values()
    np.testing.assert_array_equal(tf.make_ndarray(output), floats([2.5, 3], [3.5, 4]))
    assert response.model_spec.version.value == 5
    request.inputs["serving_default_x"].CopyFrom(tf.make_tensor_proto([[1, 2]]))
    assert failure(predict, servable, 5, request, Settings()) == (
        "INVALID_ARGUMENT",
        "Expects arg[0] to be float but int32 is provided",
    )


def test_inputs_are_resized_to_the_request(load):
    servable = load("half")
    for shape in [(1, 2), (3, 2), (0, 2), (3, 2), (2, 4), (1, 2)]:
        x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
        y = run_model(servable, x)
        assert y.shape == shape
        np.testing.assert_array_equal(y, x / 2 + 2)


def test_inputs_may_have_fewer_dimensions_than_the_model_declares(load):
    """This depends on the operations of the model."""
    servable = load("half")
    for shape in [(2,), (1, 2), (5,), (), (3, 2), (2,)]:
        x = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
        y = run_model(servable, x)
        assert y.shape == shape
        np.testing.assert_array_equal(y, x / 2 + 2)
    servable = load("dense")
    expected = run_model(servable, floats([0.1, 0.2, 0.3]))
    np.testing.assert_array_equal(run_model(servable, floats(0.1, 0.2, 0.3)), expected)


def test_fetches_may_repeat(load):
    servable = load("half")
    (signature,) = servable.signatures.values()
    (name,) = signature.outputs.values()
    first, second = servable.run(signature.feeds({"serving_default_x": floats([2, 4])}), (name, name))
    np.testing.assert_array_equal(first, second)


def test_results_survive_the_next_run(load):
    servable = load("half")
    first = run_model(servable, floats([2, 4]))
    run_model(servable, floats([0, 0]))
    np.testing.assert_array_equal(first, floats([3, 4]))


def test_strings_may_contain_any_bytes(load):
    servable = load("swapped")
    for pair in [(b"a\x00b", b"\xff"), (b"", "é".encode() * 1000), (b"x", b"")]:
        swapped = run_model(servable, strings(*pair, b"unused"))
        assert (swapped.dtype, swapped.tolist()) == (object, [pair[1], pair[0]])
    first = run_model(load("first"), strings(b"a\x00b", b"c"))
    assert (first.shape, first.item()) == ((), b"a\x00b")


ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("model", "good", "bad", "text"),
    [
        ("swapped", [strings(b"a", b"b")], [strings(b"a")], "Failed to invoke TfLite interpreter: "),
        (
            "picked",
            [np.array([1], np.int32), floats(1, 2)],
            [np.array([7], np.int32), floats(1, 2)],
            "Failed to invoke TfLite interpreter: ",
        ),
        ("product", [ONES, ONES.T], [ONES, np.ones((4, 2), np.float32)], "Failed to allocate tensors: "),
        (
            "half",
            [floats([1, 2])],
            [np.ones((1,) * 9, np.float32)],
            "Failed to resize input tensor: serving_default_x:0 to 9 dimensions, expected 2",
        ),
        (
            "mean",
            [floats([1, 2])],
            [floats(1, 2)],
            "Failed to resize input tensor: serving_default_x:0 to 1 dimensions, expected 2 because of the model's "
            "operations MEAN",
        ),
        (
            "maps",
            [np.ones((1, 4, 4, 1), np.float32)],
            [np.ones((4, 4, 1), np.float32)],
            "Failed to resize input tensor: serving_default_x:0 to 3 dimensions, expected 4 because of the model's "
            "operations CONV_2D",
        ),
        (
            "dense",
            [floats([1, 2, 3])],
            [np.float32(1)],
            "Failed to resize input tensor: serving_default_x:0 to 0 dimensions, expected 2 because of the model's "
            "operations FULLY_CONNECTED, SOFTMAX",
        ),
        ("dense", [floats([1, 2, 3])], [floats(1, 2, 3, 4)], "Failed to allocate tensors: "),
        (
            "doubled",
            [floats(1, 2)],
            [np.ones((1,) * 9, np.float32)],
            "Failed to resize input tensor: serving_default_x:0 to 9 dimensions, expected at most 8",
        ),
        (
            "half",
            [floats([1, 2])],
            [np.ones((0, 2**31), np.float32)],
            "Failed to resize input tensor: serving_default_x:0 to [0, 2147483648]: ",
        ),
        (
            "half",
            [floats([1, 2])],
            [np.ones((1, 2))],
            "Failed to set input tensor: Cannot set tensor: Got value of type",
        ),
    ],
    ids=range(11),
)
def test_failed_request_leaves_the_interpreter_usable(load, model, good, bad, text):
    servable = load(model)
    expected = run_model(servable, *good)
    messages = set()
    for _ in range(3):
        code, message = failure(run_model, servable, *bad)
        assert (code, message[: len(text)]) == ("INVALID_ARGUMENT", text)
        messages.add(message)
        np.testing.assert_array_equal(run_model(servable, *good), expected)
    assert len(messages) == 1, "an error must not repeat earlier errors"


def test_concurrent_requests_share_few_interpreters(load, monkeypatch):
    interpreters = []

    class CountingInterpreter(tflite.Interpreter):
        running = 0
        peak = 0
        lock = threading.Lock()

        def __init__(self, content):
            super().__init__(content)
            interpreters.append(self)

        def run(self, feeds):
            with self.lock:
                CountingInterpreter.running += 1
                CountingInterpreter.peak = max(CountingInterpreter.peak, CountingInterpreter.running)
            super().run(feeds)
            with self.lock:
                CountingInterpreter.running -= 1

    monkeypatch.setattr(tflite, "Interpreter", CountingInterpreter)
    servable = load("half", interpreters=3)
    assert len(interpreters) == 1, "others are created on demand"

    def repeat(number):
        x = np.full((1 + number % 7, 2), number, np.float32)
        for _ in range(20):
            y = run_model(servable, x)
            np.testing.assert_array_equal(y, x / 2 + 2)
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(repeat, range(64)))
    assert len(interpreters) <= 3
    assert CountingInterpreter.peak <= 3


def test_signatures_of_the_metadata_are_used(models, load):
    definition = signature({"number": "serving_default_x:0"}, {"scores": "PartitionedCall:0"}, "classify")
    servable = load(with_signatures(models["exported"], {"serving_default": definition, "again": definition}))
    assert servable.signature_defs == {"serving_default": definition, "again": definition}
    call_signature = servable.signatures["again"]
    (y,) = servable.run(call_signature.feeds({"number": floats(1, 2)}), (call_signature.outputs["scores"],))
    np.testing.assert_array_equal(y, floats(2, 5))
    request = classification_pb2.ClassificationRequest()
    request.model_spec.signature_name = "again"
    assert "No classification inputs found" in failure(classify, servable, 1, request, Settings())[1]


def test_tensor_names_without_output_index_are_found(models, load):
    """Early converters stripped the index from the names, but not from the signatures."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(models["exported"], 0))
    for tensor in model.subgraphs[0].tensors:
        tensor.name = tensor.name.removesuffix(b":0")
    writer = Builder(1024)
    writer.Finish(model.Pack(writer), b"TFL3")
    definition = signature({"number": "serving_default_x:0"}, {"tripled": "PartitionedCall:0"})
    servable = load(with_signatures(bytes(writer.Output()), {"serving_default": definition}))
    assert servable.signature_defs["serving_default"].inputs["number"].name == "serving_default_x"
    np.testing.assert_array_equal(run_model(servable, floats(1)), floats(2))


@pytest.mark.parametrize(
    ("signatures", "code", "text"),
    [
        (
            {"serving_default": signature({"number": "z:0"}, {"half": "PartitionedCall:0"})},
            "INTERNAL",
            "Unknown tensor 'z:0'.\n\tSignature input number references an unknown tensor",
        ),
        (
            {"serving_default": signature({"number": "serving_default_x:0"}, {"half": "serving_default_x:0"})},
            "INTERNAL",
            "Unknown tensor 'serving_default_x:0'.\n\tSignature output half references an unknown tensor",
        ),
        (b"\x00\x01", "INVALID_ARGUMENT", "Invalid SignatureDefs found in TfLite model: "),
        (b"nonsense" * 20, "INVALID_ARGUMENT", "Invalid SignatureDefs found in TfLite model: "),
    ],
    ids=range(4),
)
def test_invalid_metadata_is_rejected(models, load, signatures, code, text):
    found = failure(load, with_signatures(models["half"], signatures))
    assert (found[0], found[1][: len(text)]) == (code, text)


@pytest.mark.parametrize("content", [b"", b"these are no tensors" * 10, None], ids=["empty", "text", "half"])
def test_invalid_files_are_rejected(models, load, content):
    code, text = failure(load, models["half"][:500] if content is None else content)
    assert (code, text.startswith("Cannot build FlatBufferModel from buffer.")) == ("INVALID_ARGUMENT", True)


def test_unsupported_operations_are_rejected(load):
    module = tf.Module()
    module.function = tf.function(
        lambda text: tf.strings.upper(text), input_signature=[tf.TensorSpec([None], tf.string, "text")]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.function.get_concrete_function()], module)
    converter.allow_custom_ops = True
    code, text = failure(load, converter.convert())
    assert (code, "StringUpper" in text) == ("INTERNAL", True)


def test_missing_file(tmp_path):
    code, text = failure(TFLiteServable, str(tmp_path), 1)
    assert (code, TFLITE_NAME in text) == ("NOT_FOUND", True)


def test_tensorflow_lite_is_used_without_litert(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    tflite._library.cache_clear()
    try:
        with pytest.warns(UserWarning, match="tf.lite.Interpreter is deprecated"):
            servable = load("half")
        assert type(servable._free[0].lite).__module__.startswith("tensorflow.")
        np.testing.assert_array_equal(run_model(servable, floats([2, 4])), floats([3, 4]))
    finally:
        tflite._library.cache_clear()


@pytest.mark.parametrize("rank", [33, 64, 65, 254])
def test_ranks_that_would_crash_the_runtime_are_rejected(load, rank):
    """A request may choose the rank of an output; the rank of an input is checked against the model."""
    code, text = failure(run_model, load("reshaped"), np.ones(rank, np.int32), floats(1))
    assert (code, f"has {rank} dimensions; a tensor may have at most 32." in text) == ("INVALID_ARGUMENT", True)
    if rank <= 64:  # the limit of NumPy arrays
        code, text = failure(run_model, load("swapped"), np.full([1] * rank, b"a", object))
        assert (code, f"{rank} dimensions" in text) == ("INVALID_ARGUMENT", True)
