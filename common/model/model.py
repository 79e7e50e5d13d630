"""A base model with one adapter, LoRA layers and perhaps a head, whose tensors can be swapped."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from common.adapter.adapter import Adapter, Shapes, initial, is_lora, trainable_shapes
from common.errors import InputError
from common.model.base import fingerprint, load_base
from common.model.heads import HEAD, HeadedModel, is_causal
from common.model.quantization import is_quantized
from common.plan.lora import Lora
from common.plan.plan import Plan
from common.plan.task import TaskSection
from common.tasks import padded_length


class LoraModel:
    """A base model, its tokenizer, LoRA layers and, where the task needs one, a head: to train or to evaluate.

    Args:
        source: a folder in Hugging Face format, or a name in the local cache of the Hub.
        plan: says the task, the precision, the LoRA layers, and which of their tensors are trained.
        device: where it lives, for instance "cpu" or "cuda:0".

    Attributes:
        module: the PEFT model, or a `HeadedModel` around it, in training mode; what is trained is in float32.
        peft: the PEFT model.
        tokenizer: of the base model.
        shapes: every tensor of the adapter.
        trained_shapes: those that the plan trains.
        fingerprint: of the base model before any quantization, see `fingerprint`.

    Raises:
        InputError: the base cannot be loaded, or the plan's LoRA does not fit it.
    """

    def __init__(self, source: str, plan: Plan, device: str = "cpu") -> None:
        base, self.tokenizer = load_base(source, plan.model.dtype, plan.task)
        if is_quantized(base.config):
            raise InputError(
                f"model.base = {source!r}: is quantized already; name the model that it was made from, and set "
                "model.quantization"
            )
        self.fingerprint = fingerprint(base)
        if plan.model.quantization is not None:
            # All agree on the weights as they are published; quantized ones may differ from device to device.
            base, _ = load_base(source, plan.model.dtype, plan.task, plan.model.quantization, device)
            # In evaluation mode, bitsandbytes would lay out the weights for a kernel that has no backward pass.
            base.train()
        _check_fits(base, self.tokenizer, plan)
        self.peft: Any = _attach(base, plan).to(device)
        self.module: Any = with_head(self.peft, plan.task)
        if plan.training.gradient_checkpointing:
            # Only the reentrant kind runs the hooks of per-example gradients; it needs an input with a gradient.
            self.peft.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
            self.peft.enable_input_require_grads()
        # PEFT leaves the modes of layers mixed; the hooks of per-example gradients work in training mode only.
        # With every dropout at zero the two modes compute the same.
        self.module.train()
        self._parameters: dict[str, torch.nn.Parameter] = {
            name.replace(".default.", "."): parameter
            for name, parameter in self.peft.named_parameters()
            if is_lora(name)
        }
        if isinstance(self.module, HeadedModel):
            named = self.module.head.named_parameters()
            self._parameters |= {HEAD + name: parameter for name, parameter in named}
        self.shapes: Shapes = {name: tuple(self._parameters[name].shape) for name in sorted(self._parameters)}
        self.trained_shapes = trainable_shapes(self.shapes, plan.aggregation.method)
        self._initial = initial(self.shapes, plan.lora.seed)
        self.load({})
        self.trained_parameters()

    @property
    def width(self) -> int | None:
        """Of the base model's vectors; None if its configuration does not say."""
        return getattr(self.peft.config.get_text_config(), "hidden_size", None)

    def load(self, adapter: Adapter) -> None:
        """Set the adapter's tensors; those that `adapter` does not name get their initial values."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(torch.from_numpy(adapter.get(name, self._initial[name])))

    def adapter(self, *, complete: bool = False) -> Adapter:
        """A copy of the trained tensors, or of all of the adapter."""
        names = self.shapes if complete else self.trained_shapes
        return {name: self._parameters[name].detach().cpu().numpy().copy() for name in names}

    def release_base(self) -> None:
        """Give back the memory of the frozen weights, where this model only keeps an adapter for others."""
        kept = {id(parameter) for parameter in self._parameters.values()}
        for parameter in self.module.parameters():
            if id(parameter) not in kept:
                parameter.data = torch.empty(0, dtype=parameter.dtype)

    def trained_parameters(self, *, head_only: bool = False) -> dict[str, torch.nn.Parameter]:
        """The live parameters that training changes, by adapter name, in the order of the names.

        From then on these parameters, and no others, get a gradient.

        Args:
            head_only: leave the LoRA layers as they are.
        """
        chosen = {
            name: self._parameters[name] for name in self.trained_shapes if not (head_only and is_lora(name))
        }
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in chosen)
        return chosen


def trained_coordinates(plan: Plan) -> int | None:
    """How many numbers a plan trains; None if its base model is no folder here.

    Raises:
        InputError: the folder cannot be loaded, or the plan's LoRA does not fit it.
    """
    source = plan.base_folder()
    if not Path(source).is_dir():
        return None
    return sum(math.prod(shape) for shape in LoraModel(source, plan).trained_shapes.values())


def _check_fits(base: Any, tokenizer: Any, plan: Plan) -> None:
    """Refuse what would fail on some records only: then the failure would tell which records there are."""
    rows = base.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise InputError(
            f"model.base = {plan.model.base!r}: its tokenizer has {len(tokenizer)} tokens, the model {rows}"
        )
    positions = positions_of(base)
    if positions is not None and padded_length(plan.task.max_length) > positions:
        raise InputError(
            f"task.max_length = {plan.task.max_length}: it should be at most {positions // 16 * 16 - 1}, "
            f"since the base model has {positions} positions"
        )


# Learned positions, by the names of the models in transformers. Tables of relative positions limit no length.
_POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")


def positions_of(base: Any) -> int | None:
    """The most tokens that a model has positions for; None without a limit.

    Beside what its configuration says, its embeddings of positions count: RoBERTa's begin at its padding's number
    and one more, BART's at an offset, and LED's are not in `max_position_embeddings`.
    """
    stated = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    limits = [] if stated is None else [int(stated)]
    for name, module in base.named_modules():
        if isinstance(module, torch.nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES:
            first = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - first)
    return min(limits, default=None)


def with_head(peft: Any, section: TaskSection) -> Any:
    """A model with the head that a task needs, or the model itself if it needs none.

    Raises:
        InputError: the head should see more layers than there are.
    """
    if section.head_outputs is None:
        return peft
    pooling = section.pooling if section.is_pooled else None
    if section.is_pooled and pooling is None:
        pooling = "last" if is_causal(peft) else "mean"
    layers = section.pooling_layers or 1
    if layers > peft.config.num_hidden_layers:
        raise InputError(
            f"task.pooling_layers = {layers}: it should be at most {peft.config.num_hidden_layers}, the layers of "
            "the base model"
        )
    return HeadedModel(peft, section.head_outputs, pooling, layers).to(next(peft.parameters()).device)


_PEFT_TASKS = {"causal-lm": "CAUSAL_LM", "chat": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}


def _attach(base: Any, plan: Plan) -> Any:
    lora: Lora = plan.lora
    modules = lora.target_modules
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type=_PEFT_TASKS.get(plan.task.kind, "FEATURE_EXTRACTION"),
        use_rslora=lora.rslora,
    )
    try:
        with warnings.catch_warnings():
            # What PEFT warns of, adapters on tied layers, is refused below.
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
            model = get_peft_model(base, config)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"lora.target_modules = {modules!r}: {reason}") from None
    unknown = (
        []
        if isinstance(modules, str)
        else [
            wanted
            for wanted in modules
            if not any(name == wanted or name.endswith(f".{wanted}") for name in model.targeted_module_names)
        ]
    )
    if unknown:
        raise InputError(f"lora.target_modules = {modules!r}: the base has no module {unknown[0]!r}")
    adapted = [module for module in model.modules() if hasattr(module, "base_layer")]
    ends = (base.get_input_embeddings(), getattr(base, "get_output_embeddings", lambda: None)())
    for module in adapted:
        # Per-example gradients of LoRA on embeddings are not exact; on tied layers the merge is wrong.
        if isinstance(module.base_layer, torch.nn.Embedding) or any(end is module for end in ends):
            raise InputError(
                f"lora.target_modules = {modules!r}: embeddings and the output layer cannot be adapted"
            )
    return model
