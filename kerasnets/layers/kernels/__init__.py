"""Where speed lives. Each file has the definition as the paper has it, `plain_...`, and beside it the fast function
that equals it, which the layers call. What is taken on which backend, device and shape is decided here alone.

tests/kerasnets/layers/test_kernels.py compares both: values and gradients.
"""
