"""Aggregation of updates into the next adapter: functions of arrays, without Flower and PyTorch."""
