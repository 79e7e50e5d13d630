"""What the organization's administrator does at home: keys, budget, preview, starting both processes."""
