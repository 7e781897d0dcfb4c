"""Executors of graphs, deadlines of graphs that wait, and limits of memory and rank."""

import numpy as np
import pytest
import tensorflow as tf
from serving_helpers import build_example
from tensorflow.core.protobuf import config_pb2

from serving.engine.executors import TRIALS, CallableExecutor, SessionExecutor
from serving.engine.servable import MAX_EXECUTORS, Servable
from serving.engine.tensors import MAX_DIMENSIONS
from serving.errors import StatusError


def long_loop(x):
    return {"y": tf.while_loop(lambda i, y: i < 10**9, lambda i, y: (i + 1, y + 1), (tf.constant(0), x))[1]}


@pytest.fixture(scope="module")
def servable(tmp_path_factory):
    path = tmp_path_factory.mktemp("example") / "1"
    build_example(path)
    servable = Servable(str(path), ["serve"], config_pb2.ConfigProto())
    yield servable
    servable.close()


@pytest.fixture(scope="module")
def loops(tmp_path_factory):
    """Models of TensorFlow 2 and 1 that run for an hour."""
    new, old = (tmp_path_factory.mktemp("loops") / name for name in ("new", "old"))
    function = tf.function(long_loop, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(tf.Module(), str(new), signatures={"serving_default": function})
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.disable_control_flow_v2()
        x = tf.compat.v1.placeholder(tf.float32, [None])
        tf.compat.v1.saved_model.simple_save(session, str(old), {"x": x}, long_loop(x))
        tf.compat.v1.enable_control_flow_v2()
    servables = [Servable(str(path), ["serve"], config_pb2.ConfigProto()) for path in (new, old)]
    yield servables
    for servable in servables:
        servable.close()


def call(servable, name, seconds=None, **arrays):
    signature = servable.signatures[name]
    feeds, fetches = signature.feeds(arrays), tuple(signature.outputs.values())
    results = servable.run(feeds, fetches, seconds)
    return results, servable._executor(tuple(feeds), fetches), servable.quick(feeds, fetches)


def test_short_runs_become_quick_and_stay_correct(servable):
    x = np.ones((1, 2), np.float32)
    results, quick = [], False
    while not quick and len(results) < 50_000:  # on a busy machine slow runs have to be forgotten first
        (y,), executor, quick = call(servable, "matrix", x=x)
        results.append(y.tolist())
    assert isinstance(executor, CallableExecutor) and quick
    assert len(results) > TRIALS
    assert results == results[:1] * len(results)
    assert not call(servable, "matrix", x=np.ones((1000, 2), np.float32))[2], "these shapes have not been timed"


def test_runs_that_depend_on_values_are_not_quick(tmp_path):
    """Two bytes of a request may cause a second of work."""

    def fill(n):
        return {"y": tf.reduce_sum(tf.fill([n[0], 1], 1.0))}

    function = tf.function(fill, input_signature=[tf.TensorSpec([None], tf.int32, "n")])
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures={"serving_default": function})
    servable = Servable(str(tmp_path / "1"), ["serve"], config_pb2.ConfigProto())
    for _ in range(3 * TRIALS + 100):
        _, executor, quick = call(servable, "serving_default", n=np.array([2], np.int32))
    servable.close()
    assert isinstance(executor, SessionExecutor) and not quick


def test_errors_may_quote_invalid_utf8_of_the_request(tmp_path):
    function = tf.function(
        lambda s: {"y": tf.strings.to_number(s)}, input_signature=[tf.TensorSpec([None], tf.string, "s")]
    )
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures={"serving_default": function})
    servable = Servable(str(tmp_path / "1"), ["serve"], config_pb2.ConfigProto())
    with pytest.raises(StatusError) as caught:
        call(servable, "serving_default", s=np.array([b"\xff\xfe"], object))
    servable.close()
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.message.startswith("StringToNumberOp could not correctly convert string: \ufffd")


@pytest.mark.parametrize("name", ["put", "take"])
def test_graphs_that_may_wait_are_never_quick(servable, name):
    if name == "take":
        call(servable, "put", x=np.ones(1, np.float32))
    _, executor, quick = call(servable, name, x=np.ones(1, np.float32))
    assert isinstance(executor, SessionExecutor) and not quick


def test_quick_runs_raise_the_errors_of_the_graph(servable):
    for _ in range(3 * TRIALS):
        call(servable, "check", text=np.array([b"a"], object))
        with pytest.raises(StatusError, match="empty text is not allowed") as caught:
            call(servable, "check", text=np.array([b""], object))
        assert caught.value.code == "INVALID_ARGUMENT"


def test_waiting_graph_ends_at_its_deadline(servable):
    def take_until_empty():
        while True:
            call(servable, "take", seconds=0.3, x=np.ones(1, np.float32))

    with pytest.raises(StatusError) as caught:
        take_until_empty()
    assert (caught.value.code, caught.value.message) == ("DEADLINE_EXCEEDED", "Timed out waiting for notification")


@pytest.mark.parametrize("index", [0, 1])
def test_loop_ends_at_its_deadline(loops, index):
    with pytest.raises(StatusError) as caught:
        call(loops[index], "serving_default", seconds=0.3, x=np.ones(1, np.float32))
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_inputs_are_not_checked_against_the_declared_shape(servable, loops):
    """Clients may feed ranks that differ from the declared ones; the graph decides."""
    assert call(servable, "serving_default", x=np.float32(2))[0][0] == 3
    assert call(servable, "put", x=np.ones((2, 2), np.float32))[0][0].shape == (2, 2)


def test_output_selections_use_bounded_memory(tmp_path):
    """Every selection and order of outputs gets the right results, but not every one is compiled."""
    names = [f"y{i}" for i in range(8)]

    def powers(x):
        return {name: x + float(i) for i, name in enumerate(names)}

    function = tf.function(powers, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures={"serving_default": function})
    servable = Servable(str(tmp_path / "1"), ["serve"], config_pb2.ConfigProto())
    signature = servable.signatures["serving_default"]
    feeds = signature.feeds({"x": np.zeros(1, np.float32)})
    for choice in range(1, 2**8):
        chosen = [name for i, name in enumerate(names) if choice >> i & 1]
        for order in (chosen, chosen[::-1]):
            results = servable.run(feeds, tuple(signature.outputs[name] for name in order))
            assert [float(y[0]) for y in results] == [float(name[1:]) for name in order]
    assert len(servable._executors) <= MAX_EXECUTORS + 1
    servable.close()


def test_input_selections_use_bounded_memory(tmp_path):
    """MultiInference feeds the inputs of several signatures. The oldest executors are dropped, and created again on
    demand."""
    names = [f"x{number}" for number in range(9)]
    specs = [tf.TensorSpec([None], tf.float32, name) for name in names]
    function = tf.function(lambda *inputs: {"y": inputs[0] * 2}, input_signature=specs)
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures={"serving_default": function})
    servable = Servable(str(tmp_path / "1"), ["serve"], config_pb2.ConfigProto())
    (signature,) = servable.signatures.values()
    first, *others = [signature.inputs[name].tensor for name in sorted(signature.inputs)]
    choices = [
        {name: np.array([number], np.float32) for place, name in enumerate(others) if number >> place & 1}
        for number in range(2 ** len(others))
    ]
    for number, choice in enumerate([*choices, *choices[:3]]):
        feeds = {first: np.array([number], np.float32)} | choice
        (y,) = servable.run(feeds, tuple(signature.outputs.values()))
        assert y.tolist() == [2.0 * number]
    kept = [feeds for feeds, _ in servable._executors]
    assert len(kept) == 2 * MAX_EXECUTORS
    assert kept[-3:] == [(first, *choice) for choice in choices[:3]], "the newest"
    servable.close()


def test_ranks_that_would_crash_the_runtime_are_rejected(tmp_path):
    """Inputs and outputs with too many dimensions are rejected, even if the graph declares fewer."""
    specs = [tf.TensorSpec([None], tf.string, "text"), tf.TensorSpec([None], tf.int32, "shape")]
    reshape = tf.function(lambda text, shape: {"y": tf.reshape(text, shape)}, input_signature=specs)
    grow = tf.function(lambda text: {"y": text[:, None, None]}, input_signature=specs[:1])
    lengths = tf.function(lambda text, shape: {"y": tf.reshape(tf.strings.length(text), shape)}, input_signature=specs)
    signatures = {"reshape": reshape, "grow": grow, "lengths": lengths}
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"), signatures=signatures)
    servable = Servable(str(tmp_path / "1"), ["serve"], config_pb2.ConfigProto())
    text = np.array([b"a"], object)

    def reshaped(rank, name="reshape"):
        return call(servable, name, text=text, shape=np.ones(rank, np.int32))[0][0]

    assert reshaped(MAX_DIMENSIONS).tolist() == text.reshape([1] * MAX_DIMENSIONS).tolist()
    for rank in (33, 64, 65, 253):
        with pytest.raises(StatusError, match=f"has too many dimensions; it may have at most 32: .*{rank}") as caught:
            reshaped(rank)
        assert caught.value.code == "INVALID_ARGUMENT"
    assert reshaped(64, "lengths").ndim == 64
    with pytest.raises(StatusError, match="more dimensions than a NumPy array may have, or is too large") as caught:
        reshaped(65, "lengths")
    assert caught.value.code == "INVALID_ARGUMENT"
    with pytest.raises(StatusError, match="it may have at most 32: .*34"):
        call(servable, "grow", text=text.reshape([1] * 32))
    with pytest.raises(StatusError, match="text has 33 dimensions"):
        call(servable, "grow", text=text.reshape([1] * 33))
    servable.close()
