"""A base model with a linear head on it: a vector for each text, or one for each token."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

# How the names of its tensors begin in an adapter.
HEAD = "head."


class HeadedModel(torch.nn.Module):
    """A base model without its own output layer, and a head in float32 that begins at zero.

    The vector of a text or a token has length 1 (as sentence encoders are pooled, Reimers & Gurevych 2019,
    https://arxiv.org/abs/1908.10084), so that the gradient of the head has a length of at most √2, whatever the
    base model: that suits a clipping norm of 1, and leaves some of it to the layers below. There is no bias: as a
    part of the vector that is always 1 it would take half of each gradient's squared length.

    Args:
        backbone: gives `last_hidden_state`.
        outputs: numbers that the head gives.
        pooling: "mean", "first" or "last" for one vector a text; None for one a token.
        layers: how many of the last layers are pooled. Each gives a vector of the same length, and these stand
            side by side: layers below the last one, with which a base model was trained to end, may tell more of
            what it was not trained for.

    Attributes:
        backbone: as given, or with LoRA layers put on it since.
        head: the linear layer.
        pooling: as given.
        layers: as given.
    """

    def __init__(self, backbone: Any, outputs: int, pooling: str | None, layers: int = 1) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = torch.nn.Linear(layers * backbone.config.hidden_size, outputs, bias=False)
        torch.nn.init.zeros_(self.head.weight)
        self.pooling = pooling
        self.layers = layers

    @property
    def config(self) -> Any:
        """The configuration of the base model."""
        return self.backbone.config

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the head gives, in float32.

        Args:
            input_ids: shape (texts, tokens).
            attention_mask: 1 for tokens, 0 for padding; the same shape.
            token_type_ids: which of two texts a token belongs to, for base models that take it; the same shape.

        Returns:
            Shape (texts, outputs), or (texts, tokens, outputs) without pooling.
        """
        vectors = self.vectors(input_ids, attention_mask, token_type_ids)
        with torch.autocast(vectors.device.type, enabled=False):
            outputs: torch.Tensor = self.head(vectors)
        return outputs

    def vectors(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the head is given, in float32; the arguments are those of `forward`.

        Returns:
            Shape (texts, layers × width), or (texts, tokens, width) without pooling; each vector has length 1.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        outputs = self.backbone(**inputs, output_hidden_states=self.layers > 1)
        last: torch.Tensor = outputs.last_hidden_state.float()
        if self.pooling is None:
            return F.normalize(last, dim=-1)
        below = outputs.hidden_states[-self.layers : -1] if self.layers > 1 else ()
        pooled = [_pooled(hidden.float(), attention_mask, self.pooling) for hidden in (*below, last)]
        vectors = torch.cat([F.normalize(vector, dim=-1) for vector in pooled], dim=-1)
        return vectors / math.sqrt(self.layers)


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector a text: (texts, tokens, width) → (texts, width). Padding stands behind a text."""
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    shares = mask.to(hidden).unsqueeze(-1)
    return (hidden * shares).sum(1) / shares.sum(1)


def is_causal(backbone: Any) -> bool:
    """Whether a base model reads from left to right, so that only the last token has seen all others."""
    device = next(backbone.parameters()).device
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=device)
    with torch.inference_mode():
        first, second = backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return bool(torch.allclose(first[:-1].float(), second[:-1].float(), atol=1e-5))
