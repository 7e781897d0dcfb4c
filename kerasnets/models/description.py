"""A table of a network's layers: parameters, multiply-adds and receptive field of each."""

import math
from dataclasses import dataclass

import keras

from kerasnets.checks import check_counts
from kerasnets.layers import LocallyConnected2D, WordDropout


@dataclass(frozen=True)
class Row:
    """One layer. `receptive_field` is the side of the part of the input that one output depends on, or "all", even if
    a sequence is read from one side and an output depends only on earlier steps."""

    layer: str
    output_shape: tuple
    parameters: int
    multiply_adds: int
    receptive_field: str


@dataclass(frozen=True)
class Connections:
    """A convolution's weights (without biases), and those of two layers between the same inputs and outputs: one
    with separate weights for each window (`LocallyConnected2D`), and a fully connected one."""

    layer: str
    shared: int
    local: int
    full: int


@dataclass(frozen=True)
class Description:
    """The rows of all layers; `str` formats them as a table."""

    rows: tuple
    convolutions: tuple

    @property
    def parameters(self):
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self):
        return sum(row.multiply_adds for row in self.rows)

    def __str__(self):
        lines: list[tuple[str, ...]] = [("layer", "output shape", "parameters", "multiply-adds", "receptive field")]
        for row in self.rows:
            shape = " × ".join(str(axis) for axis in row.output_shape[1:])
            lines.append((row.layer, shape, f"{row.parameters:,}", f"{row.multiply_adds:,}", row.receptive_field))
        lines.append(("total", "", f"{self.parameters:,}", f"{self.multiply_adds:,}", ""))
        if self.convolutions:
            lines += [("",), ("weights if", "shared", "locally connected", "fully connected")]
            lines += [(c.layer, f"{c.shared:,}", f"{c.local:,}", f"{c.full:,}") for c in self.convolutions]
        first = max(len(line[0]) for line in lines)
        return "\n".join(
            (f"{line[0]:{first}}" + "".join(f"{cell:>19}" for cell in line[1:])).rstrip() for line in lines
        )


def describe(model, length=1):
    """A built model -> its `Description`: a row for each direct layer of the model.

    Multiply-adds are the products of inputs with kernels, for one example: one for each weight at each position where
    it is used. The products within attention, queries with keys and weights with values, are counted; sums, biases,
    normalizations and activations are not.

    Args:
        model: any network of `kerasnets.models`; a network for images must be built with their size.
        length: positions of the sequences, both source and target; 1 gives the cost of one position.
    Raises: ValueError if the model is not built, or not for a fixed image size.
    """
    if not model.built:
        raise ValueError("model is not built; call it once, or build it with the shape of its inputs.")
    check_counts(length=length)
    walk = Walk(length)
    rows = [walk.row(layer) for layer in sublayers(model) if walk.is_shown(layer)]
    if getattr(model, "out", None) is None:  # the logits reuse the embedding matrix, which has a row already
        size, width = model.embedding.embeddings.shape
        rows.append(Row("logits", (None, length, size), 0, length * size * width, rows[-1].receptive_field))
    return Description(tuple(rows), tuple(walk.convolutions))


class Walk:
    """A walk over a model's layers in order; it collects counted weights, convolutions and the receptive field."""

    def __init__(self, length):
        self.length = length
        self.counted, self.convolutions = set(), []
        self.extent: float = 1  # of the receptive field, in pixels or positions; math.inf: all of them
        self.step = 1

    def shapes(self, layer):
        """-> the shapes that the layer was built for, by name, with `length` in place of unknown lengths."""
        config = layer.get_build_config() or {}
        by_name = config.get("shapes_dict") or {"x_shape": config.get("input_shape")}
        return {name: self.fill_lengths(shape) for name, shape in by_name.items() if shape is not None}

    def fill_lengths(self, shape):
        if None in shape[1:] and len(shape) == 4:
            raise ValueError(f"the model is built for images of any size, {shape[1:]}; build it with one size.")
        return (shape[0], *(self.length if axis is None else axis for axis in shape[1:]))

    def output_shape(self, layer):
        shapes = self.shapes(layer)
        if len(shapes) == 1:
            shape = layer.compute_output_shape(*shapes.values())
        else:
            shape = layer.compute_output_shape(**shapes)
        while isinstance(shape[0], tuple | list):  # a recurrent layer returns its outputs, then its states
            shape = shape[0]
        return tuple(shape)

    def is_shown(self, layer):
        return bool(self.shapes(layer)) and not isinstance(layer, keras.layers.Dropout | WordDropout)

    def row(self, layer):
        parameters = sum(math.prod(v.shape) for v in layer.weights if id(v) not in self.counted)
        self.counted |= {id(v) for v in layer.weights}
        self.extend_receptive_field(layer)
        field = "all" if self.extent == math.inf else self.extent
        outputs = self.output_shape(layer)
        is_image = len(outputs) == 4 and field != "all"
        self.collect_convolutions(layer, layer.name)
        return Row(
            layer.name,
            outputs,
            parameters,
            self.multiply_adds(layer),
            f"{field}×{field}" if is_image else str(field),
        )

    def multiply_adds(self, layer, times=1):
        """`times`: runs of the layer per example; the cell of a recurrent layer runs at every step."""
        shapes = self.shapes(layer)
        if not shapes:
            return 0
        shape = next(iter(shapes.values()))
        inside = {id(v) for sublayer in sublayers(layer) for v in sublayer.weights}
        own = sum(math.prod(v.shape) for v in layer.weights if id(v) not in inside and "kernel" in v.name)
        if isinstance(layer, LocallyConnected2D):
            positions = 1
        else:
            positions = math.prod((self.output_shape(layer) if is_convolution(layer) else shape)[1:-1])
        total = own * positions * times
        if hasattr(layer, "attend"):  # T·S scores of D products each, and as many for the weighted sum of values
            _, queries, width = shape
            keys = shapes.get("memory_shape", shape)[1]
            total += 2 * queries * keys * width
        for sublayer in sublayers(layer):
            steps = shape[1] if len(shape) == 3 and len(next(iter(self.shapes(sublayer).values()), shape)) == 2 else 1
            total += self.multiply_adds(sublayer, times * steps)
        return total

    def extend_receptive_field(self, layer):
        """Extend the receptive field by the windows of the layer."""
        if isinstance(layer, keras.layers.Embedding):  # tokens enter here
            self.extent, self.step = 1, 1
        spans = self.windows(layer)
        if spans is None:
            self.extent = math.inf
        for extent, step in spans or ():
            self.extent += (extent - 1) * self.step
            self.step *= step

    def windows(self, layer):
        """-> [(extent, step), ...] of the layer, [] if it sees only one position, None if it may see all of them."""
        if hasattr(layer, "windows"):
            return layer.windows()
        if is_convolution(layer):
            return [(layer.dilation_rate[0] * (layer.kernel_size[0] - 1) + 1, layer.strides[0])]
        if isinstance(layer, keras.layers.AveragePooling2D | keras.layers.MaxPooling2D):
            return [(layer.pool_size[0], layer.strides[0])]
        shape, outputs = next(iter(self.shapes(layer).values())), self.output_shape(layer)
        keeps_positions = outputs[1:-1] == shape[1 : len(outputs) - 1] and (len(outputs) > 2 or len(shape) <= 2)
        return [] if keeps_positions and not sublayers(layer) else None

    def collect_convolutions(self, layer, name):
        """Collect the convolutions in the layer."""
        for sublayer in sublayers(layer):
            self.collect_convolutions(sublayer, f"{name}/{sublayer.name}")
        if is_convolution(layer):
            shape, outputs = next(iter(self.shapes(layer).values())), self.output_shape(layer)
            weights = math.prod(layer.kernel.shape)
            full = math.prod(shape[1:]) * math.prod(outputs[1:])
            self.convolutions.append(Connections(name, weights, weights * math.prod(outputs[1:-1]), full))


def is_convolution(layer):
    return isinstance(layer, keras.layers.Conv1D | keras.layers.Conv2D)


def sublayers(layer):
    """-> the direct sublayers of a layer, in the order of their creation."""
    return list(layer._flatten_layers(include_self=False, recursive=False))  # only models have `layers`
