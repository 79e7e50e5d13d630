"""Processes, locks, addresses, logs."""
