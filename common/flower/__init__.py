"""Flower messages, app bundle and patches, for both sides."""
