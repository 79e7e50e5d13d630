"""The process with network access and without records: Flower's SuperNode and the client of the vault."""
