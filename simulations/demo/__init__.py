"""The embedded demo: four organizations, a small base model, and a plan; all offline."""
