"""AdamW with one operation for each weight.

Keras writes the update as some forty small operations, and a network has hundreds of weights: half of the time that
TensorFlow needs to build a training step would be the optimizer's.
"""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("kerasnets")
class AdamW(keras.optimizers.AdamW):
    """Adam (Kingma & Ba 2015, algorithm 1 in the efficient form of section 2) with decoupled weight decay (Loshchilov &
    Hutter 2019, algorithm 2), by TensorFlow's fused operation. The numbers are those of `keras.optimizers.AdamW`."""

    def _apply_weight_decay(self, variables):
        """`update_step` does it."""

    def _backend_update_step(self, gradients, variables, rate):
        step = tf.cast(self.iterations + 1, tf.float32)
        rates = rate, tf.pow(self.beta_1, step), tf.pow(self.beta_2, step)
        super()._backend_update_step(gradients, variables, rates)

    def update_step(self, gradient, variable, rates):
        rate, beta_1_power, beta_2_power = rates
        if self.weight_decay and self._use_weight_decay(variable):
            variable.assign_sub(variable * (rate * self.weight_decay))
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=beta_1_power,
            beta2_power=beta_2_power,
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )
