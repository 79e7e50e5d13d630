"""Where nobody's records are: the rounds, aggregation, and what the result is for."""
