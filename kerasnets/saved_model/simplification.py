"""Smaller graphs for a SavedModel: run at export the optimizations that TensorFlow would repeat at each load."""

from pathlib import Path
from typing import Any

# The passes of TensorFlow's graph optimizer that only shrink a graph: fold constants, merge equal operations and remove
# identities. The other passes depend on the machine that runs the graph.
PASSES = ("constfold", "common_subgraph_elimination", "dependency")


def simplify(path: Path) -> None:
    """Replace the functions of the SavedModel at `path` by smaller ones, with the same names, inputs and outputs.

    This removes about half of their operations. A server holds several copies of each function, so it loads faster and
    uses less memory.
    """
    from tensorflow.core.framework import function_pb2
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    (graph,) = saved.meta_graphs
    library = graph.graph_def.library
    # Functions that no signature calls are not optimized: they create, save and restore variables and tables.
    functions = {
        function.signature.name: function for function in (*library.function, *optimize(graph).library.function)
    }
    for function in functions.values():
        for node in function.node_def:
            node.attr.pop("_output_shapes", None)  # shapes from before the optimization
    simplified = function_pb2.FunctionDefLibrary(function=functions.values(), gradient=library.gradient)
    library.CopyFrom(simplified)
    file.write_bytes(saved.SerializeToString(deterministic=True))


def optimize(graph: Any) -> Any:
    """A MetaGraphDef -> GraphDef after PASSES, with its functions, which keep their names."""
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
    from tensorflow.python.grappler import tf_optimizer

    meta_graph = meta_graph_pb2.MetaGraphDef(graph_def=graph.graph_def)
    outputs = {
        info.name.partition(":")[0] for signature in graph.signature_def.values() for info in signature.outputs.values()
    }
    # The optimizer keeps the nodes of this collection.
    meta_graph.collection_def["train_op"].node_list.value.extend(sorted(outputs))
    config = config_pb2.ConfigProto()
    rewrite_options = config.graph_options.rewrite_options
    rewrite_options.optimizers.extend(PASSES)
    rewrite_options.min_graph_nodes = -1  # small graphs too
    return tf_optimizer.OptimizeGraph(config, meta_graph)
