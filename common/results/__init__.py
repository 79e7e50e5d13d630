"""Use of a result: adapter folder, model card, merge, quantization, evaluation, generation."""
