"""What the fork server imports before it forks the first step (executors/local.py).

Every step would otherwise import these modules again, because commands import them where they need
them. A module that is missing here costs time and changes nothing else.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from importlib import import_module
from pkgutil import walk_packages

import mpu_cli

LIBRARIES = (
    "torch",
    "torch._dynamo",
    "torch.distributed.tensor",
    "transformers",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.tokenization_utils_tokenizers",
    "peft",
    "accelerate",
    "pydantic.main",
    "scipy.optimize",
    "scipy.stats",
    "rich.console",
    "rich.table",
)
"""What transformers and torch themselves import only at the first use."""

_LEFT_OUT = ("mpu_cli.__main__", "mpu_cli.demo", "mpu_cli.experiment", "mpu_cli.report")


def import_all() -> None:
    """Import the libraries and the modules of mpu that the commands of an experiment use."""
    for name in LIBRARIES:
        with suppress(ImportError):
            import_module(name)
    for module in walk_packages(mpu_cli.__path__, "mpu_cli."):
        if not module.name.startswith(_LEFT_OUT):
            with suppress(ImportError):
                import_module(module.name)


import_all()
# What was imported stays for good. Unfrozen, each collection in a step (accelerate asks for one
# before training) walks it all and copies its pages: a quarter of the CPU time of small steps.
gc.collect()
gc.freeze()
