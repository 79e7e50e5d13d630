"""Observers of a run: terminal, TensorBoard, summary."""
