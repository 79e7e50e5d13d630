"""The process with the records and without network access."""
