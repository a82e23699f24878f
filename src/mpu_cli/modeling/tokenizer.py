"""The configuration and the tokenizer of a model directory, without torch, for `mpu data check`."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from mpu_cli.checkpoint.config_file import CONFIG_FILE, known_keys
from mpu_cli.checkpoint.model import open_config
from mpu_cli.checkpoint.side_files import write_side_files
from mpu_cli.errors import BadModelError
from mpu_cli.modeling.tokenizer_trial import try_tokenizer

LOADING_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    RuntimeError,
    ArithmeticError,
    StrictDataclassError,
)
"""What transformers raises on a configuration that it cannot use."""
CORRECT_CONFIG = "correct config.json, or use the one that the model was published with"


def load_config(directory: Path, kept: Mapping[str, Any] | None = None) -> Any:
    """The configuration of a model directory, with its class's defaults.

    Args:
        directory: the model's.
        kept: the keys that mpu reads of its config.json, if they have been read.

    Raises:
        BadModelError: see `open_config`; the model type is unknown, or transformers refuses a
        value.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    content = dict(open_config(directory).content if kept is None else kept)
    file, model_type = directory / CONFIG_FILE, content.get("model_type")
    if (
        not isinstance(model_type, str)
        or model_type not in known_keys()
        or model_type not in CONFIG_MAPPING
    ):
        raise BadModelError(
            f"{file}: unknown model_type {model_type!r}",
            "transformers has no language model of this type",
        )
    with quiet_transformers():
        try:
            return CONFIG_MAPPING[model_type].from_dict(copy.deepcopy(content))
        except LOADING_ERRORS as error:
            raise BadModelError(
                f"{file}: transformers refuses it: {one_line(error)}", CORRECT_CONFIG
            ) from error


def load_tokenizer(directory: Path) -> Any:
    """Load a tokenizer from the files of a directory that a published copy would hold.

    The directory is a model's, or has a tokenizer's files alone.

    Raises:
        BadModelError: there is no tokenizer, it cannot be read, it fails a trial in a child
            process, or config.json is not a model's.
    """
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="mpu-tokenizer-") as folder:
        config = open_config(directory).content if (directory / CONFIG_FILE).exists() else {}
        kind = config.get("model_type")
        if isinstance(kind, str) and kind in known_keys():
            load_config(directory, config)  # so that no tokenizer error hides one of config.json
        write_side_files(directory, Path(folder), config)
        try_tokenizer(Path(folder) / "tokenizer.json", directory)
        with quiet_transformers():
            try:
                tokenizer = AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
            # The tokenizers library raises bare Exception for a broken tokenizer.json.
            except Exception as error:
                hint = "expected tokenizer.json and tokenizer_config.json beside the weights"
                reason = one_line(error).replace(folder, str(directory))
                raise BadModelError(f"{directory}: no usable tokenizer: {reason}", hint) from error
    tokenizer.name_or_path = str(directory)
    return tokenizer


def has_tokenizer(directory: Path) -> bool:
    """Whether a directory holds a tokenizer's file."""
    return any((directory / name).exists() for name in _TOKENIZER_FILES)


_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' log lines and progress bars within the context."""
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def one_line(error: Exception) -> str:
    """Another library's error message on one line, cut to 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
