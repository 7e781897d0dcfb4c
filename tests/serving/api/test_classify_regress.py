"""Classify and Regress: results, and TensorFlow Serving's codes and messages."""

import pytest
import tensorflow as tf
from google.protobuf import text_format
from serving_helpers import example_of, run_call
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.api.inference import classify, regress
from serving.api.predict import Settings
from serving.engine.servable import Servable
from serving.errors import StatusError

NAME_CHECK = Settings(check_method_name=True)


def classification(signature="", *examples):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "model", signature
    request.input.example_list.examples.extend(examples)
    return request


def regression(signature="", *examples):
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "model", signature
    request.input.example_list.examples.extend(examples)
    return request


def pairs(response):
    return [[(each.label, each.score) for each in row.classes] for row in response.result.classifications]


def values(response):
    return [each.value for each in response.result.regressions]


def failure(function, *arguments):
    with pytest.raises(StatusError) as caught:
        function(*arguments)
    return caught.value.code, caught.value.message


def run_failure(servable, method, request):
    """Return the error of a run whose preparation succeeds."""
    call = method(servable, 7, request, Settings())
    return failure(run_call, servable, call)


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("", [[("low", -1.0), ("high", 1.0)], [("low", 2.5), ("high", -2.5)]]),
        ("labels", [[("low", 0.0), ("high", 0.0)]] * 2),
        ("scores", [[("", -1.0), ("", 1.0)], [("", 2.5), ("", -2.5)]]),
    ],
)
def test_classify_pairs_labels_with_scores(heads, signature, expected):
    request = classification(signature, example_of(x=1.0), example_of(x=-2.5))
    call = classify(heads, 7, request, Settings())
    assert call.examples == 2
    assert pairs(run_call(heads, call)) == expected


@pytest.mark.parametrize(("signature", "expected"), [("value", [1.0, -2.5]), ("column", [2.0, -5.0])])
def test_regress_returns_one_value_per_example(heads, signature, expected):
    request = regression(signature, example_of(x=1.0), example_of(x=-2.5))
    call = regress(heads, 7, request, Settings())
    assert call.examples == 2
    assert values(run_call(heads, call)) == expected


@pytest.mark.parametrize(("requested", "expected"), [("", "serving_default"), ("scores", "scores")])
def test_response_names_version_and_signature(heads, requested, expected):
    request = classification(requested, example_of(x=1.0))
    request.model_spec.version_label = "stable"
    spec = run_call(heads, classify(heads, 7, request, Settings())).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("model", 7, expected)
    assert not spec.HasField("version_label")
    spec = run_call(heads, regress(heads, 7, regression("value", example_of(x=1.0)), Settings())).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("model", 7, "value")


def test_context_is_merged_into_every_example(heads):
    request = regression("value")
    listed = request.input.example_list_with_context
    listed.context.CopyFrom(example_of(x=3.0))
    listed.examples.extend([example_of(unused=1), example_of(x=4.0)])
    assert values(run_call(heads, regress(heads, 7, request, Settings()))) == [
        3.0,
        4.0,
    ], "an example's own x takes precedence"


def test_features_only_in_the_context_are_used(heads):
    request = regression("value")
    request.input.example_list_with_context.context.CopyFrom(example_of(x=3.0))
    request.input.example_list_with_context.examples.add()
    assert values(run_call(heads, regress(heads, 7, request, Settings()))) == [3.0]


@pytest.mark.parametrize("fill", ["nothing", "example_list", "example_list_with_context"])
@pytest.mark.parametrize(
    ("make", "method", "signature"), [(classification, classify, ""), (regression, regress, "value")]
)
def test_input_without_examples_is_rejected(heads, make, method, signature, fill):
    request = make(signature)
    if fill != "nothing":
        getattr(request.input, fill).SetInParent()
    assert failure(method, heads, 7, request, Settings()) == ("INVALID_ARGUMENT", "Input is empty.")


@pytest.mark.parametrize(("make", "method"), [(classification, classify), (regression, regress)])
def test_unknown_signature_is_rejected(heads, make, method):
    signatures_before = set(heads.signature_defs)
    expected = ("INVALID_ARGUMENT", "No signature was found with the name: nope")
    assert failure(method, heads, 7, make("nope", example_of(x=1.0)), Settings()) == expected
    assert set(heads.signature_defs) == signatures_before


@pytest.mark.parametrize(
    ("method", "signature", "text"),
    [
        (classify, "two_inputs", "Expected one input Tensor."),
        (regress, "two_inputs", "Expected one input Tensor."),
        (classify, "three_outputs", "Expected one or two output Tensors, found 3"),
        (regress, "serving_default", "Expected one output Tensor."),
        (classify, "misnamed_input", "No classification inputs found in SignatureDef: {definition}"),
        (regress, "misnamed_input", "No regression inputs found in SignatureDef: {definition}"),
        (regress, "scores", "No regression outputs found in SignatureDef: {definition}"),
        (
            classify,
            "misnamed_output",
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            "Signature was: {definition}",
        ),
        (classify, "no_strings", "Expects arg[0] to be float but string is provided"),
    ],
)
def test_unsuitable_signatures_are_rejected(heads, method, signature, text):
    make = classification if method is classify else regression
    definition = heads.signature_defs[signature]
    before = definition.SerializeToString(deterministic=True)
    expected = text.replace("{definition}", text_format.MessageToString(definition))
    assert failure(method, heads, 7, make(signature, example_of(x=1.0)), Settings()) == ("INVALID_ARGUMENT", expected)
    assert definition.SerializeToString(deterministic=True) == before, "a look-up must not add an entry to the map"


def test_signature_is_checked_before_the_input(heads):
    expected = ("INVALID_ARGUMENT", "Expected one input Tensor.")
    assert failure(classify, heads, 7, classification("two_inputs"), Settings()) == expected


@pytest.mark.parametrize(
    ("method", "signature", "text"),
    [
        (classify, "flat", "Expected Tensor shape: [batch_size num_classes] but got [2]"),
        (classify, "number_classes", "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        (classify, "double_scores", "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        (classify, "short", "Expected scores output batch size of 2. Got: 1"),
        (classify, "uneven", "Tensors class and score should match in dim_size(1). Got 2 vs. 1"),
        (
            regress,
            "wide",
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]",
        ),
        (regress, "short_value", "Input batch size did not match output batch size: 2 vs. 1"),
        (regress, "integer_value", "Expected output Tensor of DT_FLOAT.  Got: DT_INT32"),
    ],
)
def test_unsuitable_outputs_are_rejected(heads, method, signature, text):
    make = classification if method is classify else regression
    request = make(signature, example_of(x=1.0), example_of(x=2.0))
    assert run_failure(heads, method, request) == ("INVALID_ARGUMENT", text)


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (example_of(), "Name: <unknown>, Feature: x (data type: float) is required but could not be found."),
        (example_of(x=2), "Name: <unknown>, Key: x, Index: 0.  Data types don't match. "),
    ],
)
def test_unparsable_examples_are_rejected(heads, example, text):
    code, message = run_failure(heads, classify, classification("", example))
    assert code == "INVALID_ARGUMENT"
    assert message.startswith(text)
    assert "[[{{node ParseExample/" in message


@pytest.mark.parametrize(
    ("method", "signature", "text"),
    [
        (
            classify,
            "value",
            "Expected classification signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/regress",
        ),
        (
            regress,
            "number",
            "Expected regression signature method_name to be tensorflow/serving/regress. "
            "Was: tensorflow/serving/predict",
        ),
    ],
)
def test_method_names_are_checked_if_enabled(heads, method, signature, text):
    make = classification if method is classify else regression
    assert failure(method, heads, 7, make(signature, example_of(x=1.0)), NAME_CHECK) == ("INVALID_ARGUMENT", text)
    assert "method_name to be" not in failure(method, heads, 7, make(signature, example_of(x=1.0)), Settings())[1]


def test_matching_method_names_pass_the_check(heads):
    assert pairs(run_call(heads, classify(heads, 7, classification("", example_of(x=1.0)), NAME_CHECK)))
    assert values(run_call(heads, regress(heads, 7, regression("value", example_of(x=1.0)), NAME_CHECK)))


def test_tensorflow_2_exports_classify_and_regress(tmp_path):
    """Their method name is that of Predict. Labels may be any bytes; a response contains text."""

    def parsed(inputs):
        return tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def labelled(inputs):
        x = parsed(inputs)
        return {"classes": tf.tile([["é".encode(), b"\xff"]], [tf.size(x), 1]), "scores": tf.stack([x, 1 - x], 1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def doubled(inputs):
        return {"outputs": 2 * parsed(inputs)}

    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures={"classify": labelled, "regress": doubled})
    servable = Servable(str(tmp_path / "1"), ["serve"], config_pb2.ConfigProto())
    assert servable.signatures["classify"].method_name == "tensorflow/serving/predict"
    response = run_call(servable, classify(servable, 1, classification("classify", example_of(x=0.25)), Settings()))
    assert pairs(response) == [[("é", 0.25), ("�", 0.75)]]
    assert classification_pb2.ClassificationResponse.FromString(response.SerializeToString()) == response
    response = run_call(servable, regress(servable, 1, regression("regress", example_of(x=0.25)), Settings()))
    assert values(response) == [0.5]
    # The operation that initializes the model is listed among the signatures, but is not one.
    assert failure(classify, servable, 1, classification("__saved_model_init_op"), Settings())[1] == (
        "Expected one input Tensor."
    )
    servable.close()


def with_context(request, size, examples):
    """Add a context with a feature of `size` bytes, and `examples` empty examples."""
    listed = request.input.example_list_with_context
    listed.context.CopyFrom(example_of(x=1.0, word=b"a" * size))
    for _ in range(examples):
        listed.examples.add()
    return request


@pytest.mark.parametrize(("method", "make_request"), [(classify, classification), (regress, regression)])
def test_repeated_context_is_limited(heads, method, make_request):
    signature = "value" if method is regress else ""
    code, text = failure(method, heads, 7, with_context(make_request(signature), 500_000, 1_000), Settings())
    assert (code, "a request may repeat 16777216 bytes: send a smaller context" in text) == ("INVALID_ARGUMENT", True)
    for size, examples in ((500_000, 30), (15_000, 1_000), (20_000_000, 1)):
        run_call(heads, method(heads, 7, with_context(make_request(signature), size, examples), Settings()))
