"""Key files, node keys and statement keys."""
