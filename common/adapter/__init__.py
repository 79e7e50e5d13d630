"""LoRA tensors by name: checked, serialized, compressed."""
