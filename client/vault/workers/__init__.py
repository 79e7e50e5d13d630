"""Where gradients are computed: in the vault's own process, or in worker processes."""
