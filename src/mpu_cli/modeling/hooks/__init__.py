"""Every use that mpu makes of something undocumented in transformers, accelerate or peft.

Each hook lies in a module of this package and is listed below with the version in which it was
read. `tests/modeling/test_hooks.py` fails if an installed version has moved or changed one.
"""

from __future__ import annotations

from typing import NamedTuple


class Hook(NamedTuple):
    """One undocumented place in a library."""

    place: str
    """Module and attribute, for example "transformers.trainer:Trainer._load_rng_state"."""
    marker: str
    """Text in its source, or a key of the mapping that it is."""
    version: str
    """The version in which it was read."""


TRANSFORMERS, ACCELERATE, PEFT = "5.23.0", "1.15.0", "0.21.2"
_CORE, _TRAINER = "transformers.core_model_loading", "transformers.trainer:Trainer"

HOOKS = (
    # loading.py
    Hook(
        "transformers.models.auto.auto_factory:_BaseAutoModelClass.from_config",
        "cls._model_mapping",
        TRANSFORMERS,
    ),
    Hook(
        "transformers.conversion_mapping:get_model_conversion_mapping",
        "model: PreTrainedModel",
        TRANSFORMERS,
    ),
    Hook(f"{_CORE}:rename_source_key", "base_model_prefix: str | None = None", TRANSFORMERS),
    Hook(f"{_CORE}:WeightConverter", "WeightTransform", TRANSFORMERS),
    Hook(f"{_CORE}:WeightRenaming", "WeightTransform", TRANSFORMERS),
    Hook(_CORE, "tensor = tensor[...]", TRANSFORMERS),
    Hook(_CORE, "HF_DEACTIVATE_ASYNC_LOAD", TRANSFORMERS),
    Hook(
        "transformers.distributed.configuration_utils:DistributedConfig", "fsdp_size", TRANSFORMERS
    ),
    # trainer.py
    Hook(f"{_TRAINER}.training_step", "self.loss_is_scaled_for_ga", TRANSFORMERS),
    Hook(f"{_TRAINER}._run_epoch", "current_gradient_accumulation_steps = len(", TRANSFORMERS),
    Hook(f"{_TRAINER}._get_train_sampler", "train_dataset", TRANSFORMERS),
    Hook(f"{_TRAINER}._load_from_checkpoint", "resume_from_checkpoint: str", TRANSFORMERS),
    Hook(f"{_TRAINER}._load_optimizer_and_scheduler", "checkpoint: str | None", TRANSFORMERS),
    Hook(f"{_TRAINER}._load_rng_state", "checkpoint: str | None", TRANSFORMERS),
    Hook("transformers.training_args:TrainingArguments.n_gpu", "self._n_gpu", TRANSFORMERS),
    Hook("accelerate.data_loader:prepare_data_loader", "process_index: Optional[int]", ACCELERATE),
    Hook("accelerate.accelerator:Accelerator.unwrap_model", "keep_fp32_wrapper", ACCELERATE),
    # cache.py
    Hook("transformers.modeling_utils:PreTrainedModel", "_is_stateful: bool", TRANSFORMERS),
    Hook("transformers.cache_utils:DynamicLayer.batch_select_indices", "indices", TRANSFORMERS),
    # experts.py
    Hook("peft.utils.transformers_weight_conversion:_MODEL_TO_CONVERSION_PATTERN", "mixtral", PEFT),
    Hook("peft.utils.transformers_weight_conversion:_MOE_TARGET_MODULE_MAPPING", "mixtral", PEFT),
    Hook("peft:inject_adapter_in_model", 'adapter_name: str = "default"', PEFT),
    # modeling/processes.py
    Hook("accelerate.state", "OMPI_COMM_WORLD_SIZE", ACCELERATE),
    Hook("accelerate.accelerator", "ACCELERATE_USE_FSDP", ACCELERATE),
)
