"""Smaller graphs for a SavedModel: what TensorFlow would leave out each time it prepares them is left out once."""

from pathlib import Path
from typing import Any

# Of TensorFlow's graph optimizer, what makes a graph smaller and nothing else: constants are computed, of equal
# operations one stays, and those that pass on what they get go. The rest depends on the machine that runs it.
PASSES = ("constfold", "common_subgraph_elimination", "dependency")


def simplify(path: Path) -> None:
    """Replaces the functions of the SavedModel at `path` by smaller ones, with the same names, inputs and outputs.

    About half of their operations go. A server holds each several times, so that it loads faster and takes less memory.
    """
    from tensorflow.core.framework import function_pb2
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    (graph,) = saved.meta_graphs
    library = graph.graph_def.library
    # What no signature calls is not optimized: it makes, saves and restores variables and tables.
    functions = {
        function.signature.name: function for function in (*library.function, *optimize(graph).library.function)
    }
    for function in functions.values():
        for node in function.node_def:
            node.attr.pop("_output_shapes", None)  # notes of those operations that stood there before
    smaller = function_pb2.FunctionDefLibrary(function=functions.values(), gradient=library.gradient)
    library.CopyFrom(smaller)
    file.write_bytes(saved.SerializeToString(deterministic=True))


def optimize(graph: Any) -> Any:
    """A MetaGraphDef -> GraphDef after PASSES; functions too, which keep their names."""
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
    from tensorflow.python.grappler import tf_optimizer

    asked = meta_graph_pb2.MetaGraphDef(graph_def=graph.graph_def)
    outputs = {info.name.partition(":")[0] for each in graph.signature_def.values() for info in each.outputs.values()}
    # By this name the optimizer knows what has to stay.
    asked.collection_def["train_op"].node_list.value.extend(sorted(outputs))
    config = config_pb2.ConfigProto()
    rewriting = config.graph_options.rewrite_options
    rewriting.optimizers.extend(PASSES)
    rewriting.min_graph_nodes = -1  # small graphs too
    return tf_optimizer.OptimizeGraph(config, asked)
