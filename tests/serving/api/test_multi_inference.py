"""MultiInference: several signatures in one run, and TensorFlow Serving's codes and messages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_helpers import example_of, run_call
from tensorflow_serving.apis import inference_pb2, model_pb2

from serving.api.inference import CLASSIFY, REGRESS, first_spec, multi_inference
from serving.api.predict import Settings
from serving.errors import StatusError

PLAIN = Settings()


def make_request(*tasks, examples=(1.0, -2.5)):
    """Return a request; its tasks are (signature, method) or (signature, method, model)."""
    request = inference_pb2.MultiInferenceRequest()
    for signature, method, *model in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = (model or ["model"])[0], signature
    request.input.example_list.examples.extend(example_of(x=x) for x in examples)
    return request


def failure(servable, request, settings=PLAIN):
    with pytest.raises(StatusError) as caught:
        run_call(servable, multi_inference(servable, 7, request, settings))
    return caught.value.code, caught.value.message


def test_results_have_the_order_of_the_tasks(heads):
    request = make_request(("value", REGRESS), ("", CLASSIFY), ("column", REGRESS))
    call = multi_inference(heads, 7, request, Settings())
    assert call.examples == 2
    assert list(call.feeds) == ["examples:0"], "one tensor feeds all three tasks"
    response = run_call(heads, call)
    value, default, column = response.results
    assert [each.value for each in value.regression_result.regressions] == [1.0, -2.5]
    assert [each.value for each in column.regression_result.regressions] == [2.0, -5.0]
    rows = [[(each.label, each.score) for each in row.classes] for row in default.classification_result.classifications]
    assert rows == [[("low", -1.0), ("high", 1.0)], [("low", 2.5), ("high", -2.5)]]
    specs = [
        (each.model_spec.name, each.model_spec.version.value, each.model_spec.signature_name)
        for each in response.results
    ]
    assert specs == [("model", 7, "value"), ("model", 7, "serving_default"), ("model", 7, "column")]


def test_distinct_inputs_are_fed_in_one_run(heads):
    call = multi_inference(heads, 7, make_request(("other", REGRESS), ("value", REGRESS)), Settings())
    assert sorted(call.feeds) == ["examples:0", "others:0"]
    other, value = run_call(heads, call).results
    assert [each.value for each in other.regression_result.regressions] == [10.0, -25.0]
    assert [each.value for each in value.regression_result.regressions] == [1.0, -2.5]


def test_shared_outputs_are_fetched_once(heads):
    call = multi_inference(heads, 7, make_request(("", CLASSIFY), ("scores", CLASSIFY)), Settings())
    assert len(call.fetches) == len(set(call.fetches)) == 2
    both, scores = run_call(heads, call).results
    first = both.classification_result.classifications[0].classes
    assert [each.score for each in first] == [-1.0, 1.0]
    assert [each.label for each in scores.classification_result.classifications[0].classes] == ["", ""]


def test_context_reaches_all_tasks(heads):
    request = make_request(("value", REGRESS), ("other", REGRESS))
    request.input.example_list_with_context.context.CopyFrom(example_of(x=3.0))
    request.input.example_list_with_context.examples.add()
    results = run_call(heads, multi_inference(heads, 7, request, Settings())).results
    assert [each.regression_result.regressions[0].value for each in results] == [3.0, 30.0]


@pytest.mark.parametrize(
    ("tasks", "code", "text"),
    [
        ([("value", REGRESS, "")], "INVALID_ARGUMENT", "Found ModelSpec with an empty model name."),
        (
            [("value", REGRESS), ("", CLASSIFY, "")],
            "INVALID_ARGUMENT",
            "Found ModelSpec with an empty model name.",
        ),
        (
            [("value", REGRESS), ("", CLASSIFY, "another")],
            "INVALID_ARGUMENT",
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            [("value", REGRESS), ("value", REGRESS)],
            "INVALID_ARGUMENT",
            "Duplicate evaluation of signature: value",
        ),
        (
            [("", CLASSIFY), ("serving_default", CLASSIFY)],
            "INVALID_ARGUMENT",
            "Duplicate evaluation of signature: serving_default",
        ),
        (
            [("nope", CLASSIFY)],
            "INVALID_ARGUMENT",
            "Requested signature not found in model graph: nope",
        ),
        (
            [("number", "tensorflow/serving/predict")],
            "UNIMPLEMENTED",
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        ([("", "")], "UNIMPLEMENTED", "Unsupported signature method_name: "),
        ([("two_inputs", CLASSIFY)], "INVALID_ARGUMENT", "Expected one input Tensor."),
        ([("value", REGRESS), ("", REGRESS)], "INVALID_ARGUMENT", "Expected one output Tensor."),
        (
            [("value", REGRESS), ("short", CLASSIFY)],
            "INVALID_ARGUMENT",
            "Expected scores output batch size of 2. Got: 1",
        ),
        ([], "INVALID_ARGUMENT", "Must specify at least one target to fetch or execute."),
    ],
)
def test_errors(heads, tasks, code, text):
    assert failure(heads, make_request(*tasks)) == (code, text)


def test_tasks_are_checked_before_the_input(heads):
    assert failure(heads, make_request(("nope", CLASSIFY), examples=())) == (
        "INVALID_ARGUMENT",
        "Requested signature not found in model graph: nope",
    )
    assert failure(heads, make_request(("value", REGRESS), examples=())) == ("INVALID_ARGUMENT", "Input is empty.")


def test_method_names_are_checked_if_enabled(heads):
    check = Settings(check_method_name=True)
    assert failure(heads, make_request(("scores", REGRESS)), check)[1] == (
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: tensorflow/serving/classify"
    )
    assert run_call(heads, multi_inference(heads, 7, make_request(("value", REGRESS)), check)).results


def test_first_task_selects_the_version():
    request = make_request(("value", REGRESS), ("", CLASSIFY))
    request.tasks[0].model_spec.version.value = 3
    request.tasks[1].model_spec.version.value = 4
    assert first_spec(request) == request.tasks[0].model_spec
    assert first_spec(inference_pb2.MultiInferenceRequest()) == model_pb2.ModelSpec()
    request.tasks[0].ClearField("model_spec")
    assert first_spec(request) == model_pb2.ModelSpec()


SIGNATURES = st.sampled_from(
    ["", "labels", "scores", "value", "column", "other", "number", "two_inputs", "flat", "short", "no_strings", "nope"]
)
METHODS = st.sampled_from([CLASSIFY, REGRESS, "tensorflow/serving/predict", ""])
TASKS = st.lists(
    st.tuples(SIGNATURES, METHODS, st.sampled_from(["model", "model", "model", "another", ""])), max_size=3
)
FEATURES = st.dictionaries(
    st.sampled_from(["x", "y", ""]), st.one_of(st.floats(width=32), st.integers(-(2**63), 2**63 - 1), st.binary())
)


@settings(deadline=None, max_examples=200)
@given(TASKS, FEATURES, st.lists(FEATURES, max_size=3))
def test_any_request_succeeds_or_is_rejected(heads, tasks, context, examples):
    """Each result has one output per example; rejections are errors of the client."""
    request = make_request(*tasks, examples=())
    listed = request.input.example_list_with_context
    listed.context.CopyFrom(example_of(**context))
    listed.examples.extend(example_of(**features) for features in examples)
    results, code = results_or_code(heads, request)
    assert code in (None, "INVALID_ARGUMENT", "UNIMPLEMENTED")
    for result in results:
        outputs = result.classification_result.classifications or result.regression_result.regressions
        assert len(outputs) == len(examples) > 0
    assert len(results) == (len(tasks) if code is None else 0)


def results_or_code(servable, request):
    try:
        return run_call(servable, multi_inference(servable, 7, request, PLAIN)).results, None
    except StatusError as error:
        return [], error.code
