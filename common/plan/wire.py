"""The section of the plan that says how tensors travel."""

from __future__ import annotations

from common.adapter.compression import NumberFormat
from common.settings import Section


# At its defaults it is left out of the agreement: such plans keep the digest that they had before it was there.
class Wire(Section):
    """How tensors travel. bfloat16 has half the bytes of float32, int8 a quarter, int4 an eighth. ε stays."""

    update: NumberFormat = "float32"
    """The noised update, from an organization to the coordinator. It is noised first and rounded then."""
    adapter: NumberFormat = "float32"
    """The adapter, from the coordinator to the organizations. The coordinator itself keeps float32."""
