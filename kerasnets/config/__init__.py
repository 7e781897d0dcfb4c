"""The configuration of each task: typed, frozen dataclasses, read from and written to TOML.

A run directory's `config.toml` holds one of them whole, which is all that is needed to repeat the run. The doc string
of a field is its help on the command line.
"""

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kerasnets.config.checks import RequestError, check, check_counts, check_share, choose
from kerasnets.config.networks import (
    CharLSTMModel,
    ConvNetModel,
    Seq2SeqLSTMModel,
    SequenceClassifierModel,
    SequenceGeneratorModel,
    TransformerModel,
)

C = typing.TypeVar("C")


@dataclass(frozen=True)
class Training:
    """How the network is trained."""

    epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 128
    """Examples a step, over all devices together (translation: target tokens a step)."""
    learning_rate: float = 1e-3
    """Highest learning rate of Adam."""
    schedule: Literal["cosine", "inverse_sqrt"] = "cosine"
    """How the learning rate falls after the warm-up: to 0 along a cosine, or with 1/√step."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises from 0."""
    beta_2: float = 0.999
    """Adam's memory of squared gradients: 0.98 is usual for Transformers."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the kernels (AdamW); biases and normalizations have none."""
    clip_norm: float = 1.0
    """Longest global gradient, over all devices together; 0 clips nothing."""
    label_smoothing: float = 0.0
    """Share of the target probability that is spread over all classes (Szegedy et al. 2016)."""

    def __post_init__(self) -> None:
        check_counts(self, "training.", "epochs", "batch_size")
        for name in ("learning_rate", "warmup_steps", "weight_decay", "clip_norm"):
            check(getattr(self, name) >= 0, f"training.{name}", getattr(self, name), "0 or more")
        for name in ("beta_2", "label_smoothing"):
            check_share(f"training.{name}", getattr(self, name))


@dataclass(frozen=True)
class Config:
    """What all tasks have in common."""

    dataset: str = ""
    """Name of a bundled set or of one of TensorFlow Datasets, or `file:PATH` or `folder:PATH` of your own data."""
    data_dir: str | None = None
    """Folder of prepared TensorFlow Datasets; when not given, what TFDS_DATA_DIR says."""
    seed: int = 0
    """Starts every random choice: weights, order of the data, dropout."""
    training: Training = field(default_factory=Training)
    """How the network is trained."""
    model: Any = None
    """The network, one of those that the task knows."""

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**32, "seed", self.seed, "0 or more and less than 2**32")


@dataclass(frozen=True)
class ImageClassification(Config):
    """A class for a picture."""

    augmentation: int = 2
    """Pixels by which training shifts pictures at random, up or down and left or right."""
    flip: bool = False
    """Whether training mirrors pictures at random; not for digits or letters."""
    image_size: int | None = None
    """Rows and columns to which pictures of different sizes are brought."""
    model: ConvNetModel | SequenceClassifierModel | SequenceGeneratorModel = field(default_factory=ConvNetModel)
    """The network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.augmentation >= 0, "augmentation", self.augmentation, "0 or more")
        check(self.image_size is None or self.image_size >= 1, "image_size", self.image_size, "1 or more")


@dataclass(frozen=True)
class TextGeneration(Config):
    """The next character of a text, by an LSTM."""

    sequence_length: int = 128
    """Characters through which the gradient flows back; states are carried on from sequence to sequence."""
    max_length: int = 1000
    """Most characters that one call generates."""
    model: CharLSTMModel = field(default_factory=CharLSTMModel)
    """The network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "", "sequence_length", "max_length")


@dataclass(frozen=True)
class Translation(Config):
    """A sentence in another language."""

    source: str = "en"
    """Language of the given sentences."""
    target: str = "de"
    """Language of the translations."""
    vocabulary_size: int = 4000
    """Subwords of the vocabulary that both languages share."""
    max_length: int = 100
    """Most subwords of a sentence; longer training pairs are left out, longer requests refused."""
    embeddings: str | None = None
    """File of word vectors, in the text format of word2vec or GloVe, from which the embeddings of whole words start."""
    model: TransformerModel | Seq2SeqLSTMModel = field(default_factory=TransformerModel)
    """The network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "", "vocabulary_size", "max_length")


TASKS: dict[str, type[Config]] = {
    "image_classification": ImageClassification,
    "text_generation": TextGeneration,
    "translation": Translation,
}
STRATEGIES = ("auto", "one_device", "mirrored")
DEFAULT_PRESETS = {"image_classification": "small", "text_generation": "small", "translation": "tiny"}
PRESETS = Path(__file__).parents[1] / "presets"


def model_kinds(task: str) -> dict[str, Any]:
    """-> the networks that a task can train, by name; the first one is its default."""
    return kinds(typing.get_type_hints(TASKS[task])["model"])


def kinds(hint: Any) -> dict[str, Any]:
    return {cls.kind: cls for cls in typing.get_args(hint) or (hint,)}


def presets(task: str) -> list[str]:
    return sorted(path.stem for path in (PRESETS / task).glob("*.toml"))


def load_preset(task: str, name: str | None = None) -> Config:
    """-> the configuration that `presets/TASK/NAME.toml` describes."""
    choose("task", task, TASKS)
    name = choose(f"preset of {task}", name or DEFAULT_PRESETS[task], presets(task))
    return from_dict(TASKS[task], tomllib.loads((PRESETS / task / f"{name}.toml").read_text("utf-8")))


def to_dict(config: object) -> dict[str, Any]:
    """A dataclass as nested dictionaries without the fields that are None, which TOML cannot write.

    A network's table says first which `kind` it is.
    """
    kind = {"kind": config.kind} if hasattr(config, "kind") else {}
    return kind | {
        name: to_dict(value) if dataclasses.is_dataclass(value) else value
        for name, value in vars(config).items()
        if value is not None
    }


def from_dict(cls: type[C], values: dict[str, Any], where: str = "") -> C:
    """-> a dataclass with these values; an unknown key or a value of another type is a RequestError."""
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise RequestError(f"there is no option {where}{key}; known are {', '.join(where + k for k in hints)}.")
    return cls(**{key: typed(hints[key], value, where + key) for key, value in values.items()})


def typed(hint: Any, value: Any, name: str) -> Any:
    """-> value as the type that `hint` asks for; only what loses nothing is converted (a list to a tuple)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if name == "model":
        check(isinstance(value, dict), name, value, "a table")
        known = kinds(hint)
        chosen = choose(name, value.get("kind", next(iter(known))), known)
        return from_dict(known[chosen], {k: v for k, v in value.items() if k != "kind"}, f"{name}.")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        check(isinstance(value, dict), name, value, "a table")
        return from_dict(hint, value, f"{name}.")
    if origin is Literal:
        check(value in arguments, name, value, " or ".join(map(repr, arguments)))
        return value
    if origin is tuple:
        check(isinstance(value, list | tuple), name, value, "a list")
        return tuple(typed(arguments[0], item, name) for item in value)
    if origin is types.UnionType:
        return value if value is None else typed(arguments[0], value, name)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    check(type(value) is hint, name, value, f"of type {hint.__name__}")
    return value


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dataclasses -> {"model.units": 256, ...}."""
    values: dict[str, Any] = {}
    for name, value in vars(config).items():
        nested = hasattr(value, "__dataclass_fields__")
        values |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return values
