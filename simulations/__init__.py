"""Simulations: many vaults in one process, with the plan, rounds, trainer and ledger of a deployment."""
