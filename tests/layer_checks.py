"""`check_layer`, the checks that every layer passes; and helpers that compare a layer with a reference."""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

POLICIES = {"float32": "float32", "mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}

Arrays = Any  # nested arrays
Inputs = Callable[[int, int], dict[str, Arrays]]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype(np.float32)


def check_layer(
    cls: type[keras.layers.Layer],
    arguments: dict[str, Any],
    inputs: Inputs,
    folder: Path,
    every_argument: bool = True,
    **call: Any,
) -> None:
    """Check config and `.keras` round trips, shapes, one graph for all sizes, XLA, a SavedModel that loads without the
    class, dtype policies, the training flag, and a gradient for every weight.

    Args:
        arguments: init arguments of `cls`; with `every_argument` all of them, different from their defaults, so that a
            lost one is noticed.
        inputs: function of batch and length that returns the arrays for `call`, by name; axes that depend on batch or
            length are dynamic.
        folder: for saved models.
        call: arguments of `call` that are not tensors.
    """
    small, large = tensors(inputs(2, 5)), tensors(inputs(3, 8))
    check_config(cls, arguments, every_argument)

    layer = make(cls, arguments, name="layer")
    symbolic = keras.tree.map_structure(symbolic_input, small, large)
    outputs = layer(**symbolic, **call)
    model = keras.Model(keras.tree.flatten(symbolic), outputs)
    randomize(layer)
    sizes = [(arrays, layer(**arrays, **call)) for arrays in (small, large)]
    for _, eager in sizes:
        keras.tree.map_structure(assert_same_shape, outputs, eager)
    static = keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape, x.dtype.name), small)
    assert shapes(make(cls, arguments)(**static, **call)) == shapes(sizes[0][1])

    check_saving(model, *sizes[0], folder)
    graph = check_one_graph(lambda arrays: layer(**arrays, **call), symbolic, sizes)
    check_export(layer, graph, *sizes[0], folder)
    check_xla(lambda arrays: layer(**arrays, **call), *sizes[0])
    check_training(layer, *sizes[0], call)
    check_policies(cls, arguments, small, call)
    check_gradients(layer, lambda: layer(**small, **call))


def check_config(cls: type[keras.layers.Layer], arguments: Mapping[str, Any], every_argument: bool = True) -> None:
    if every_argument:
        parameters = set(inspect.signature(cls).parameters)
        own_parameters = parameters - set(inspect.signature(keras.layers.Layer).parameters) - {"kwargs"}
        assert set(arguments) == own_parameters, (
            f"pass check_layer every argument of {cls.__name__}: {sorted(own_parameters)}"
        )
        for name in own_parameters:
            assert arguments[name] != inspect.signature(cls).parameters[name].default, f"{name} is the default"
    config = make(cls, arguments, name="layer", dtype="mixed_bfloat16").get_config()
    plain = {name: value for name, value in arguments.items() if not callable(value)}
    assert {name: config[name] for name in plain} == plain
    restored = cls.from_config(json.loads(json.dumps(config)))
    assert json.dumps(restored.get_config()) == json.dumps(config)
    assert restored.compute_dtype == "bfloat16"
    assert restored.name == "layer"


def make(cls: type[keras.layers.Layer], arguments: Mapping[str, Any], **options: Any) -> keras.layers.Layer:
    """-> a new layer; callable arguments are functions that make layers, with the same dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(options.get("dtype", before))
    try:
        values = {name: value() if callable(value) else value for name, value in arguments.items()}
        return cls(**values, **options)
    finally:
        keras.config.set_dtype_policy(before)


def check_saving(model: keras.Model, inputs: Arrays, expected: Arrays, folder: Path) -> None:
    path = folder / "model.keras"
    model.save(path)
    assert_close(keras.models.load_model(path)(keras.tree.flatten(inputs)), expected, 0)


def check_one_graph(function: Callable, symbolic: Arrays, sizes: list[tuple[Arrays, Arrays]]) -> Callable:
    """-> the graph, with flat, named inputs and outputs."""
    traces = []
    specs = [tf.TensorSpec(x.shape, x.dtype, f"input_{n}") for n, x in enumerate(keras.tree.flatten(symbolic))]

    @tf.function(input_signature=specs)
    def graph(*tensors):
        traces.append(1)
        outputs = keras.tree.flatten(function(keras.tree.pack_sequence_as(symbolic, tensors)))
        return {f"output_{n}": x for n, x in enumerate(outputs)}

    for inputs, expected in sizes:
        assert_close(in_order(graph(*keras.tree.flatten(inputs))), expected, 1e-5)
    assert len(traces) == 1
    return graph


def in_order(outputs: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
    return [outputs[f"output_{n}"] for n in range(len(outputs))]


def check_export(layer: keras.layers.Layer, graph: Any, inputs: Arrays, expected: Arrays, folder: Path) -> None:
    """Check that a SavedModel of plain TensorFlow operations, for any batch and length, gives the same outputs."""
    module = tf.Module()
    module.weights = [variable.value for variable in layer.variables]
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # as kerasnets.export
    tf.saved_model.save(module, str(folder / "export"), graph.get_concrete_function(), options)
    signature = tf.saved_model.load(str(folder / "export")).signatures["serving_default"]
    outputs = signature(**{f"input_{n}": x for n, x in enumerate(keras.tree.flatten(inputs))})
    assert_close(in_order(outputs), expected, 1e-5)


def check_xla(function: Callable, inputs: Arrays, expected: Arrays) -> None:
    assert_close(tf.function(function, jit_compile=True)(inputs), expected, 1e-5)


def check_training(layer: keras.layers.Layer, inputs: Arrays, expected: Arrays, call: Any) -> None:
    """Check that inference is the default and deterministic, and training random if the layer has dropout."""
    if "training" not in inspect.signature(layer.call).parameters:
        return
    assert_close(layer(**inputs, **call, training=False), expected, 0)
    rates = [sublayer.rate for sublayer in layer._flatten_layers() if isinstance(sublayer, keras.layers.Dropout)]
    if any(rates):
        # A small layer may drop the same twice, but not eight times.
        first, *others = (keras.tree.flatten(layer(**inputs, **call, training=True)) for _ in range(8))
        assert any(np.abs(a - b).max() > 1e-4 for other in others for a, b in zip(first, other, strict=True))


def check_policies(cls: type[keras.layers.Layer], arguments: Any, inputs: Arrays, call: Any) -> None:
    for policy, dtype in POLICIES.items():
        layer = make(cls, arguments, dtype=policy)
        with tf.GradientTape() as tape:
            outputs = layer(**inputs, **call)
            total = probe(outputs)
        for output in keras.tree.flatten(outputs):
            assert output.dtype.name == dtype, policy
            assert np.isfinite(np.asarray(output, np.float32)).all(), policy
        assert {v.dtype for v in layer.weights if "seed" not in v.path} <= {"float32"}, policy
        for gradient in tape.gradient(total, [v.value for v in layer.trainable_variables]):
            assert gradient.dtype == tf.float32 and np.isfinite(gradient).all(), policy


def check_gradients(layer: keras.layers.Layer, outputs: Callable[[], Arrays]) -> None:
    with tf.GradientTape() as tape:
        total = probe(outputs())
    variables = layer.trainable_variables
    for variable, gradient in zip(variables, tape.gradient(total, [v.value for v in variables]), strict=True):
        assert gradient is not None, f"no gradient reaches {variable.path}"
        if not variable.path.endswith("key/bias"):  # it shifts all scores of a query alike, which a softmax ignores
            assert np.abs(gradient).max() > 1e-5, f"the gradient of {variable.path} is zero"


def probe(outputs: Arrays) -> tf.Tensor:
    """-> the sum of all outputs with random weights: its gradient distinguishes all of them."""
    flat = keras.tree.flatten(outputs)
    return tf.add_n([tf.reduce_sum(x * tf.cast(normal(*x.shape, seed=n), x.dtype)) for n, x in enumerate(flat)])


def value_and_gradients(function: Callable[[], Arrays], sources: Arrays) -> tuple[Arrays, Arrays]:
    """-> the outputs, and the gradients of their `probe` for the sources (tensors or Keras variables)."""
    sources = keras.tree.map_structure(lambda x: x.value if isinstance(x, keras.Variable) else x, sources)
    with tf.GradientTape() as tape:
        tape.watch(sources)
        outputs = function()
        total = probe(outputs)
    return outputs, tape.gradient(total, sources)


def assert_close(ours: Arrays, theirs: Arrays, tolerance: float = 1e-5) -> None:
    """Compare nested arrays, with `tolerance` relative to the largest number of each (or to 1, if that is larger)."""
    ours, theirs = keras.tree.flatten(ours), keras.tree.flatten(theirs)
    assert len(ours) == len(theirs)
    for x, y in zip(ours, theirs, strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.shape == y.shape
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1.0, np.abs(y).max(initial=0)))


def randomize(layer: keras.layers.Layer, seed: int = 1, scale: float = 0.3) -> None:
    """Add noise to all weights, so that no one or zero hides a mistake."""
    for n, weight in enumerate(layer.trainable_variables):
        weight.assign(weight + normal(*weight.shape, seed=seed + n, scale=scale))


def tensors(arrays: Arrays) -> Arrays:
    return keras.tree.map_structure(tf.convert_to_tensor, arrays)


def symbolic_input(small: tf.Tensor, large: tf.Tensor) -> Any:
    axes = zip(small.shape, large.shape, strict=True)
    return keras.Input(batch_shape=[a if a == b else None for a, b in axes], dtype=small.dtype.name)


def shapes(arrays: Arrays) -> list[tuple]:
    return [tuple(x.shape) for x in keras.tree.flatten(arrays)]


def assert_same_shape(symbolic: Any, eager: Any) -> None:
    assert len(symbolic.shape) == len(eager.shape)
    assert all(a is None or a == b for a, b in zip(symbolic.shape, eager.shape, strict=True))
