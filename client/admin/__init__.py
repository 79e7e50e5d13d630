"""The administrator's tasks on the organization's machine: keys, budget, preview, starting both processes."""
