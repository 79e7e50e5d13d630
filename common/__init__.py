"""Shared by both trust domains: the plan, the adapter, the accounting, and the protocol between them."""

import logging

# PEFT imports bitsandbytes if it is installed, which then warns about a kernel that it could not download.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
