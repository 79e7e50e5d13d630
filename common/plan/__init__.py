"""The plan that all participants agree on, and its sections."""
