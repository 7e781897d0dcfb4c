"""Calibration of probabilities: the temperature, the calibration error and the reliability diagram."""
