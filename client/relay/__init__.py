"""The process with the network, without records: Flower's SuperNode and the client of the vault."""
