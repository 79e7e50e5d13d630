"""Mechanisms, their ε, the lifetime's privacy filter, calibration of noise."""
