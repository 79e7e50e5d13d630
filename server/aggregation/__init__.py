"""From updates to the next adapter: functions of arrays, without Flower and PyTorch."""
