"""Beside the private records: the vault, its ledger, its policy, and differentially private training."""
