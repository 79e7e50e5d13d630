"""The durable record of all runs that were reserved and all rounds that were released."""
