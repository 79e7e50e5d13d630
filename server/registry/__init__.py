"""The registered organizations: their keys, and the newest heads of their ledgers."""
