"""Read the settings files beside config.json by allow-list: known keys with plain values.

They may come from the other party, and they select classes and files of the loading machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.config_file import TOKENIZER_CLASS
from mpu_cli.errors import BadModelError

_GENERATION = """
    bos_token_id eos_token_id pad_token_id decoder_start_token_id forced_bos_token_id
    forced_eos_token_id max_length max_new_tokens min_length min_new_tokens do_sample temperature
    top_k top_p min_p typical_p epsilon_cutoff eta_cutoff num_beams num_beam_groups
    diversity_penalty length_penalty early_stopping num_return_sequences repetition_penalty
    encoder_repetition_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size suppress_tokens
    begin_suppress_tokens bad_words_ids exponential_decay_length_penalty renormalize_logits
    remove_invalid_values penalty_alpha guidance_scale stop_strings
"""
_TOKENIZER = """
    add_bos_token add_eos_token add_prefix_space added_tokens_decoder additional_special_tokens
    extra_special_tokens model_specific_special_tokens special_tokens backend chat_template
    clean_up_tokenization_spaces do_lower_case do_basic_tokenize never_split errors
    fix_mistral_regex keep_accents legacy legacy_behaviour max_length model_input_names
    model_max_length normalization pad_to_multiple_of pad_token_type_id padding_side remove_space
    rstrip sp_model_kwargs spaces_between_special_tokens split_special_tokens stride strip_accents
    tokenize_chinese_chars trim_offsets truncation_side truncation_strategy unicode_normalizer
    use_default_system_prompt vocab_size
"""
_NAMED_TOKEN = re.compile(r"[a-z][a-z0-9_]{0,60}_token")
_LISTS_OF_TOKENS = ("additional_special_tokens", "extra_special_tokens")
MOST_TOKENS = 20_000
"""Tokens that one list may add. The largest published lists have 6,000; adding takes quadratic time
in the tokenizers library."""
_OF_A_TOKEN = {
    "content": str,
    "single_word": bool,
    "lstrip": bool,
    "rstrip": bool,
    "normalized": bool,
    "special": bool,
    "__type": str,
    "id": int,
}
_PROCESSOR = """
    audio_seq_length chunk_length crop_size data_format default_to_square do_center_crop
    do_convert_rgb do_flip_channel_order do_image_splitting do_normalize do_pad do_pan_and_scan
    do_reduce_labels do_rescale do_resize do_sample_frames do_thumbnail feature_size fps height
    hop_length image_mean image_seq_len image_seq_length image_std input_data_format longest_edge
    max_frames max_height max_image_size max_pixels max_width merge_size min_frames min_pixels
    n_fft nb_max_frames num_additional_image_tokens num_frames num_image_tokens pad_size
    padding_side padding_value pan_and_scan_max_num_crops pan_and_scan_min_crop_size
    pan_and_scan_min_ratio_to_activate patch_size pixel_shuffle_ratio resample rescale_factor
    return_attention_mask return_row_col_info sampling_rate shortest_edge size size_divisor
    spatial_merge_size spatial_patch_size temporal_patch_size tile_size
    vision_feature_select_strategy width
"""
_PROCESSOR_PARTS = ("image_processor", "video_processor", "feature_extractor")
_PROCESSOR_CLASS = re.compile(r"(image_processor|video_processor|feature_extractor)_type")
_CLASS = re.compile(r"[A-Z]\w{0,80}(?:Processor|ProcessorFast|ProcessorPil|Extractor)")
_SENTENCEPIECE = ("enable_sampling", "nbest_size", "alpha", "add_bos", "add_eos", "reverse")
"""The kept keys of `sp_model_kwargs`; `model_file` would load another vocabulary."""


def generation_settings(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json: the recommended settings for generation.

    Raises:
        BadModelError: a value is a map, although all known keys have plain values.
    """
    settings = {key: value for key, value in content.items() if key in _GENERATION.split()}
    for key, value in settings.items():
        if isinstance(value, dict):
            raise BadModelError(f"{path}: {key} is a map, expected a plain value")
    return settings


def tokenizer_settings(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json, without file names, model classes and code.

    Raises:
        BadModelError: `tokenizer_class` is not the name of a tokenizer class, or a list is
            too long.
    """
    settings = {
        key: value
        for key, value in content.items()
        if key in _TOKENIZER.split() or _NAMED_TOKEN.fullmatch(key)
    }
    for key in (*_LISTS_OF_TOKENS, "added_tokens_decoder", "model_specific_special_tokens"):
        _limit(path, key, settings.get(key))
    sentencepiece = settings.get("sp_model_kwargs")
    if isinstance(sentencepiece, dict):
        settings["sp_model_kwargs"] = {
            key: value for key, value in sentencepiece.items() if key in _SENTENCEPIECE
        }
    name = content.get("tokenizer_class")
    if name is not None:
        if not isinstance(name, str) or not TOKENIZER_CLASS.fullmatch(name):
            raise BadModelError(
                f"{path}: tokenizer_class is {name!r:.80}, which is not the name of a tokenizer",
                "remove tokenizer_class: tokenizer.json is sufficient",
            )
        settings["tokenizer_class"] = name
    return settings


def processor_settings(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json and processor_config.json: how images, videos and sound are scaled.

    mpu reads neither: programs that give a model images do.

    Raises:
        BadModelError: the name of a class is none.
    """
    settings: dict[str, Any] = {}
    for key, value in content.items():
        if key in _PROCESSOR_PARTS and isinstance(value, dict):
            settings[key] = processor_settings(path, value)
        elif key in _PROCESSOR.split() or (_NAMED_TOKEN.fullmatch(key) and _is_token(value)):
            settings[key] = value
        elif _PROCESSOR_CLASS.fullmatch(key) or key == "processor_class":
            if value is not None and not (isinstance(value, str) and _CLASS.fullmatch(value)):
                raise BadModelError(
                    f"{path}: {key} is {value!r:.80}, which is not the name of a processor",
                    f"remove {key}, or the file if nobody gives this model images",
                )
            settings[key] = value
    return settings


def special_tokens(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """special_tokens_map.json, whose keys transformers passes to the tokenizer's constructor.

    Raises:
        BadModelError: the value of a known key is not a token, or a list is too long.
    """
    settings = {
        key: value
        for key, value in content.items()
        if value is not None and (_NAMED_TOKEN.fullmatch(key) or key in _LISTS_OF_TOKENS)
    }
    for key, value in settings.items():
        _limit(path, key, value)
        several = key in _LISTS_OF_TOKENS
        tokens = value if several and isinstance(value, list) else [value]
        if several and isinstance(value, dict):
            tokens = list(value.values())
        if not all(map(_is_token, tokens)):
            raise BadModelError(
                f"{path}: {key} is {value!r:.60}, expected {'tokens' if several else 'a token'}"
            )
    return settings


def added_tokens(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """added_tokens.json: ids by token.

    Raises:
        BadModelError: a value is not an id, or there are too many.
    """
    _limit(path, "the file", content)
    for token, number in content.items():
        if type(number) is not int or not 0 <= number < 1 << 31:
            raise BadModelError(
                f"{path}: {token!r:.60} has the id {number!r:.60}, expected an integer"
            )
    return dict(content)


def _limit(path: Path, key: str, tokens: object) -> None:
    if isinstance(tokens, list | dict) and len(tokens) > MOST_TOKENS:
        raise BadModelError(
            f"{path}: {key} has {len(tokens):,} tokens, more than {MOST_TOKENS:,}, the limit"
        )


def _is_token(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get("content"), str) and all(
            type(inner) is _OF_A_TOKEN.get(key) for key, inner in value.items()
        )
    return isinstance(value, str)
