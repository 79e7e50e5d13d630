"""From records to units of privacy, each record by itself."""
