"""What both trust domains may know: the plan, the adapter, the accounting, and what they say to each other."""

import logging

# PEFT imports bitsandbytes where it is installed; that warns of a kernel which it could not download.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
