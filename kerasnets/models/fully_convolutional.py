"""A classifier as a fully convolutional network: Sermanet et al. 2014, section 3.5; Long et al. 2015, section 3.1."""

import functools

import keras

from kerasnets.models.conv_net import ConvNet

convolution = functools.partial(keras.layers.Conv2D, data_format="channels_last")
register = keras.saving.register_keras_serializable("kerasnets")


@register
class FullyConvNet(ConvNet):
    """A `ConvNet` that slides over images larger than those it was trained on, and gives logits at each position.

    The classifier's last feature maps are h×w at the training size. Its head is applied to every h×w window of them:
    global pooling becomes pooling in windows, the fully connected layer after flattened maps an h×w convolution, and
    every other fully connected layer a 1×1 convolution. All positions share the convolutions below. At the training
    size there is one position, with the logits of the classifier.

    Args: classes; training_size, rows and columns; options: those of `ConvNet`.
    Call: pixels [B, Y, X, C], 0..255, at least of the training size.
    Returns: logits [B, Y', X', classes] in float32, a class map.
    """

    def __init__(self, classes, training_size, **options):
        super().__init__(classes, **options)
        self.training_size = tuple(training_size)

    def build(self, input_shape):
        super().build((input_shape[0], *self.training_size, input_shape[-1]))

    def make_head(self):
        """Do nothing: the windows of the head are known only after the blocks are built."""

    def build_head(self, shape):
        window, policy = shape[1:3], self.dtype_policy
        options = {"strides": 1, "data_format": "channels_last", "dtype": policy, "name": "pool"}
        pooling = {
            "average": lambda: keras.layers.AveragePooling2D(window, **options),
            "max": lambda: keras.layers.MaxPooling2D(window, **options),
            "flatten": lambda: keras.layers.Identity(dtype=policy, name="pool"),
        }
        self.pool = pooling[self.head]()
        *sides, last = [window if self.head == "flatten" else 1, *[1 for _ in self.hidden]]
        self.fully_connected = [
            convolution(units, side, activation="relu", dtype=policy, name=f"hidden_{n}")
            for n, (units, side) in enumerate(zip(self.hidden, sides, strict=True))
        ]
        self.out = convolution(self.classes, last, dtype="float32", name="out")
        super().build_head(shape)

    def call(self, pixels, training=None):
        rows, columns = self.training_size
        if (pixels.shape[1] or rows) < rows or (pixels.shape[2] or columns) < columns:
            size = f"{pixels.shape[1]}×{pixels.shape[2]}"
            raise ValueError(f"images are {size}; they must be at least {rows}×{columns}, the training size.")
        return super().call(pixels, training=training)

    def compute_output_shape(self, input_shape):
        shape = input_shape
        for layer in (*self.blocks, self.pool, *self.fully_connected, self.out):
            shape = layer.compute_output_shape(shape)
        return shape

    def get_config(self):
        return super().get_config() | {"training_size": self.training_size}


def to_fully_convolutional(model):
    """A trained `ConvNet` -> a `FullyConvNet` with its weights, which gives a class map of larger images.

    Raises: ValueError if `model` is not a ConvNet, or was built without the rows and columns of its images.
    """
    if not isinstance(model, ConvNet) or isinstance(model, FullyConvNet):
        raise ValueError(f"model is a {type(model).__name__}; it must be a ConvNet.")
    if not model.built or None in model.image_size:
        raise ValueError(
            "the training size of model is unknown; build it with the rows and columns of its images: "
            "model.build((None, 32, 32, 3))."
        )
    fully_convolutional = FullyConvNet.from_config(model.get_config() | {"training_size": model.image_size})
    channels = model.get_build_config()["input_shape"][-1]
    fully_convolutional.build((None, None, None, channels))
    for new, old in zip(weights(fully_convolutional), weights(model), strict=True):
        new.assign(keras.ops.reshape(old, new.shape))  # [h·w·C, units] -> [h, w, C, units], row by row as `Flatten`
    return fully_convolutional


def weights(model):
    """-> all weights, in the order of the layers, which is the same for a classifier and its `FullyConvNet`."""
    norms = [model.last_norm] if model.norm == "pre" else []
    layers = [*model.blocks, *norms, *model.fully_connected, model.out]
    return [weight for layer in layers for weight in layer.weights]
