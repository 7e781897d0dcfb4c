"""The optimizer and its learning rate."""

import math

import keras
from keras import ops

from kerasnets.config.run import Training
from kerasnets.training.adamw import AdamW

# Matrices that Muon leaves to AdamW beside embeddings: of the output layer, and those that are lists of vectors.
NOT_MUON = [r"^[^/]+/out/", r"/(table|peephole)$"]


@keras.saving.register_keras_serializable("kerasnets")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly to `peak` within `warmup_steps`, then falls: to 0 at `steps` along a cosine
    (Loshchilov & Hutter 2017), or as 1/√step (Vaswani et al. 2017, section 5.3)."""

    def __init__(self, schedule, peak, warmup_steps, steps):
        self.schedule, self.peak, self.warmup_steps, self.steps = schedule, peak, warmup_steps, steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rising = (step + 1) / max(self.warmup_steps, 1)
        if self.schedule == "cosine":
            falling = cosine((step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1))
        else:
            falling = ops.sqrt(max(self.warmup_steps, 1) / (step + 1))
        return self.peak * ops.minimum(rising if self.warmup_steps else 1.0, falling)

    def get_config(self):
        return {
            "schedule": self.schedule,
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "steps": self.steps,
        }


@keras.saving.register_keras_serializable("kerasnets")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises from `peak`/25 to `peak` in the first 30 % of the steps, then falls to 0, both along
    a cosine (Smith & Topin 2018, with the shape and the numbers of fast.ai's library). The momentum stays constant."""

    RISING, START = 0.3, 1 / 25

    def __init__(self, peak, steps):
        self.peak, self.steps = peak, steps

    def __call__(self, step):
        progress = ops.cast(step, "float32") / max(self.steps, 1)
        rising = 1 - (1 - self.START) * cosine(progress / self.RISING)
        falling = cosine((progress - self.RISING) / (1 - self.RISING))
        return self.peak * ops.where(progress < self.RISING, rising, falling)

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps}


def cosine(progress):
    """-> half a period of a cosine, from 1 at progress 0 to 0 at 1 and after it."""
    return 0.5 * (1 + ops.cos(math.pi * ops.clip(progress, 0, 1)))


def make_optimizer(config: Training, steps: int) -> keras.optimizers.Optimizer:
    """-> the optimizer of a training, without gradient clipping: a Keras optimizer would clip on each device, so the
    training step clips, after the gradients of all devices are summed."""
    rate: keras.optimizers.schedules.LearningRateSchedule
    if config.schedule == "one_cycle":
        rate = OneCycle(config.learning_rate, steps)
    else:
        rate = WarmUp(config.schedule, config.learning_rate, config.warmup_steps, steps)
    options = {
        "learning_rate": rate,
        "weight_decay": config.weight_decay,
        "use_ema": config.average_decay > 0,
        "ema_momentum": config.average_decay,
        "ema_overwrite_frequency": None,  # the average takes the place of the weights in validations and exports only
    }
    if config.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(momentum=config.momentum, nesterov=config.momentum > 0, **options)
    elif config.optimizer == "muon":
        optimizer = keras.optimizers.Muon(
            momentum=config.momentum,
            adam_beta_2=config.beta_2,
            adam_weight_decay=config.weight_decay,
            epsilon=1e-8,
            exclude_layers=NOT_MUON,
            **options,
        )
    else:
        optimizer = AdamW(beta_2=config.beta_2, epsilon=1e-8, **options)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
