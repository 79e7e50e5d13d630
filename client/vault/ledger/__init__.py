"""The durable history of every mechanism that was reserved or released, across runs."""
