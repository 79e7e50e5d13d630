"""Many vaults on one machine: the same plan, rounds, trainer and ledger; only the transport differs."""
