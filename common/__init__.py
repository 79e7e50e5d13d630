"""What both trust domains may know: the plan, the adapter, the accounting, and what they say to each other."""
