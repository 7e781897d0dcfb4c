"""Smaller graphs: the same outputs, signatures and shapes with fewer operations."""

import shutil

import numpy as np
import pytest

from kerasnets.saved_model.simplification import simplify


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """-> a SavedModel with a branch, a loop, a table, a variable and redundant operations."""
    import tensorflow as tf

    class Module(tf.Module):
        def __init__(self):
            self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0]), 0.0)
            self.weight = tf.Variable([[1.0, 2.0], [3.0, 4.0]])

        @tf.function(input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([None], tf.string)])
        def run(self, x, words):
            x = tf.matmul(x, self.weight) + tf.reshape(self.table.lookup(words), [tf.shape(x)[0], 1])
            x += tf.cast(tf.shape(x)[0], tf.float32) + tf.cast(tf.shape(x)[0], tf.float32) + (2.0 + 3.0)
            branched = tf.cond(tf.reduce_sum(x) > 0, lambda: tf.identity(x) * 2, lambda: tf.identity(x) - 1)
            _, total = tf.while_loop(lambda n, _: n < 3, lambda n, y: (n + 1, y + branched[:, ::-1]), (0, branched))
            return {"total": total, "positions": tf.range(tf.shape(x)[0]) + 1}

    directory = tmp_path_factory.mktemp("saved") / "model"
    module = Module()
    tf.saved_model.save(module, str(directory), {"serving_default": module.run})
    return directory


def operations(path):
    from tensorflow.core.protobuf import saved_model_pb2

    (graph,) = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs
    return [node.op for function in graph.graph_def.library.function for node in function.node_def]


def test_outputs_stay_and_operations_are_removed(saved, tmp_path):
    import tensorflow as tf

    simple = shutil.copytree(saved, tmp_path / "simple")
    simplify(simple)
    before, after = operations(saved), operations(simple)
    assert len(after) < 0.8 * len(before)
    assert after.count("ReadVariableOp") and after.count("LookupTableFindV2")
    old, new = (tf.saved_model.load(str(path)) for path in (saved, simple))
    signatures = [model.signatures["serving_default"] for model in (old, new)]
    assert signatures[0].structured_outputs == signatures[1].structured_outputs
    for rows in (1, 3):
        for scale in (1.0, -10.0):  # both branches
            x = tf.constant(scale * np.arange(2 * rows).reshape(rows, 2), tf.float32)
            words = tf.constant(["a", "b", "c"][:rows])
            expected, outputs = (signature(x=x, words=words) for signature in signatures)
            assert expected.keys() == outputs.keys()
            for name in expected:
                np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-6)
    # The function keeps its name, and its variable is still that of the module.
    new.weight.assign(tf.zeros([2, 2]))
    assert new.run(tf.ones([1, 2]), tf.constant(["c"]))["total"].numpy().tolist() == [[56.0, 56.0]]


def test_a_simplified_model_does_not_change_again(saved, tmp_path):
    simple = shutil.copytree(saved, tmp_path / "simple")
    simplify(simple)
    once = operations(simple)
    simplify(simple)
    assert sorted(operations(simple)) == sorted(once)


def test_a_tensorflow_1_session_loads_a_simplified_model(saved, tmp_path):
    import tensorflow as tf

    simple = shutil.copytree(saved, tmp_path / "simple")
    simplify(simple)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        definition = tf.compat.v1.saved_model.load(session, ["serve"], str(simple)).signature_def["serving_default"]
        feeds = {definition.inputs["x"].name: [[1.0, 1.0]], definition.inputs["words"].name: ["b"]}
        total = session.run(definition.outputs["total"].name, feeds)
    # 1 + 3 + 2 and 2 + 4 + 2, 7 more, doubled by the branch, and three times the other column.
    assert total.tolist() == [[26 + 3 * 30, 30 + 3 * 26]]
