"""Starting, following and resuming a run."""
