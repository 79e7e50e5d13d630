"""DP-SGD, its entropy, and what is verified before anything is spent. Knows no ledger and no policy."""
