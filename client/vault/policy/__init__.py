"""What the organization allows: organization.toml, its policy, approved plans."""
