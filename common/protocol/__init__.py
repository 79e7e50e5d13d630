"""The messages between coordinator and vault, typed and bounded."""
