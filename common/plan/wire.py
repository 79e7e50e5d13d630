"""The plan's section on the number format of the tensors that are sent."""

from __future__ import annotations

from common.adapter.compression import NumberFormat
from common.settings import Section


# At its defaults it is left out of the agreement, so that older plans keep their digests.
class Wire(Section):
    """Number formats. bfloat16 has half the bytes of float32, int8 a quarter, int4 an eighth; ε is unchanged."""

    update: NumberFormat = "float32"
    """The noised update, from an organization to the coordinator. It is rounded after the noise is added."""
    adapter: NumberFormat = "float32"
    """The adapter, from the coordinator to the organizations. The coordinator itself stores float32."""
