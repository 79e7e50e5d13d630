"""What the vault and the relay share: the protocol on the socket, refusals, the health check."""
