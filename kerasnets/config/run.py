"""The configuration of a run: its data, its network and its training.

A run directory's `config.toml` contains all of it, which suffices to repeat the run. Each task adds its own options in
its `facts.py`; those of the networks are in `image_networks.py` and
`text_networks.py`.
"""

from dataclasses import dataclass, field
from typing import Literal

from kerasnets.checks import RequestError, check, check_counts, check_fractions
from kerasnets.config.networks import NetworkOptions
from kerasnets.config.values import Options

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker")


@dataclass(frozen=True)
class Training(Options):
    """Options of the training."""

    prefix = "training."

    epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 128
    """Examples per step, over all devices together (translation: target tokens per step)."""
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """AdamW (Loshchilov & Hutter 2019), SGD with Nesterov momentum (Sutskever et al. 2013), or Muon for the matrices of
    hidden layers and AdamW for the rest (Jordan et al. 2024; with the step sizes of Liu et al. 2025)."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "inverse_sqrt", "one_cycle"] = "cosine"
    """Decay of the learning rate after the warm-up: to 0 along a cosine, or with 1/√step; `one_cycle` has a warm-up of
    its own, in 0.3 of all steps (Smith & Topin 2018)."""
    warmup_steps: int = 0
    """Warm-up steps, in which the learning rate rises linearly from 0 to its peak."""
    beta_2: float = 0.999
    """AdamW's decay rate of the second moment; 0.98 is usual for Transformers."""
    momentum: float = 0.9
    """Momentum of SGD and Muon."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the kernels; biases and normalizations have none."""
    accumulation: int = 1
    """Parts of a batch that each device computes one after the other, for batches larger than its memory."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Numbers that layers compute with, for speed on GPUs; weights stay float32 (Micikevicius et al. 2018)."""
    clip_norm: float = 1.0
    """Gradient clipping: maximum global norm of the gradient over all devices; 0 disables clipping."""
    label_smoothing: float = 0.0
    """Share of the target probability spread over all classes (Szegedy et al. 2016)."""
    average_decay: float = 0.0
    """Decay of an exponential average of the weights, which is validated and saved in their place (Polyak & Juditsky
    1992); 0: no average."""
    average_epochs: int = 0
    """Last epochs whose final weights are averaged; the average is validated and saved (Vaswani et al. 2017, section
    6.1, with checkpoints); 0: no average."""
    patience: int = 0
    """Epochs without a better validation after which training ends; 0: it never ends early."""
    checkpoint_seconds: int = 300
    """Seconds between the checkpoints within an epoch; another one precedes each validation."""

    def check(self) -> None:
        check_counts(**self.values("epochs", "batch_size", "accumulation", "checkpoint_seconds"))
        for name, value in self.values(
            "learning_rate", "warmup_steps", "weight_decay", "clip_norm", "average_epochs", "patience"
        ).items():
            check(value >= 0, name, value, "0 or more")
        if self.average_decay and self.average_epochs:
            raise RequestError("give either --training.average-decay or --training.average-epochs, not both.")
        check_fractions(**self.values("beta_2", "label_smoothing", "momentum", "average_decay"))


@dataclass(frozen=True)
class Config(Options):
    """The options that all tasks share."""

    dataset: str = ""
    """A bundled dataset, a name in TensorFlow Datasets, or your own data as `file:PATH` or `folder:PATH`."""
    data_dir: str | None = None
    """Directory of prepared TensorFlow Datasets (default: the value of TFDS_DATA_DIR)."""
    seed: int = 0
    """Random seed of the initial weights, the order of the data and dropout."""
    training: Training = field(default_factory=Training)
    """Options of the training."""
    model: NetworkOptions = field(default_factory=NetworkOptions)
    """The network, one of those of the task."""

    def check(self) -> None:
        check(0 <= self.seed < 2**32, "seed", self.seed, "0 or more and less than 2**32")
