"""A run as values without files: its rounds, evaluations, traffic, and which round is the result."""
