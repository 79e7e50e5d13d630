"""Processes, locks, wake-up signals, network addresses, logs, the console."""
