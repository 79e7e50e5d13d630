"""Base models and their adapters, in PyTorch."""
