"""How peft names adapters and the experts that transformers stacks."""

from __future__ import annotations

from typing import Any

ADAPTER = "default"
"""peft's name of a model's first adapter."""


def names_of_experts(model: Any) -> frozenset[str]:
    """Module names that peft takes for experts of this kind of model, wherever the modules stand.

    peft renames them for transformers 5, so the dense layers' and shared experts' gate_proj and
    up_proj of DeepSeek get no adapter either. `lora.attach` makes sure that it renames nothing
    else.
    """
    from peft.utils import transformers_weight_conversion as conversion

    tables: Any = conversion
    pattern = tables._MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)
    renamed = tables._MOE_TARGET_MODULE_MAPPING.get(pattern, {})
    # gate.weight is the router.
    return frozenset(old for old, new in renamed.items() if "." not in new)
