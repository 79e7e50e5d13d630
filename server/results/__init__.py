"""What is done with a result: adapter folder, merge, model card, evaluation, generation."""
