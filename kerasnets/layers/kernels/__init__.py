"""Fast implementations. Each file has the paper's definition, `plain_...`, and an equivalent fast function, which the
layers call. Only these files choose an implementation by backend, device and shape.

tests/kerasnets/layers/test_kernels.py compares both: values and gradients.
"""
