"""Mechanisms and their ε, the privacy filter for the lifetime budget, and the calibration of noise."""
