"""The process with the records, without a network."""
