"""Starting, following and resuming a run; its report and its result."""
