"""What is written does not depend on batches.

Ends where the model ends; sampling is the seed's alone.
"""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from scipy.stats import chisquare
from tiny_rows import questions, rows, settings
from transformers import AutoConfig, AutoModelForCausalLM

from mpu_cli.data.templates import IGNORED, TokenizedRow
from mpu_cli.errors import BadDataError, BadModelError
from mpu_cli.evaluation.decoding import _shared_prefix
from mpu_cli.evaluation.generation import generate
from mpu_cli.evaluation.metrics import row_metrics
from mpu_cli.evaluation.model_under_test import ModelUnderTest
from mpu_cli.evaluation.sampling import RandomChoice, Sampling
from mpu_cli.evaluation.scoring import score
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer
from tiny_families import tiny_models

FAMILIES = ["gpt2", "opt", "gpt-bigcode", "llama", "mistral", "mixtral"]
LENGTHS = (1, 17, 4, 30, 9, 2, 23, 4)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Of 1 to 30 tokens."""
    rng = random.Random(0)
    return [[rng.randrange(5, 64) for _ in range(length)] for length in LENGTHS]


@torch.no_grad()
def by_hand(model, tokenizer, prompt, most, ends=(1,)) -> str:
    """The most probable token, again and again, without padding and cache."""
    ids = list(prompt)
    for _ in range(most):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_write_what_one_row_at_a_time_does(family, tiny_model, prompts):
    """Left padding and the cache change no token, for all kinds of positions and for experts."""
    directory = tiny_model(family)
    model, tokenizer = load_model(directory).model, load_tokenizer(directory)
    expected = [[by_hand(model, tokenizer, prompt, 20)] for prompt in prompts]
    assert len({text for (text,) in expected}) > 4
    for batch_size in (1, 3, 8):
        assert generate(model, tokenizer, prompts, 20, batch_size) == expected


SHARED = [[5, 9, 7, 30, 31], [5, 9, 7, 12], [5, 9, 7, 30, 31, 40, 41, 42, 43], [5, 9, 7]]


@pytest.mark.parametrize("family", [tiny.name for tiny in tiny_models()])
def test_what_prompts_begin_with_is_read_once(family, tiny_model):
    """Every family writes the tokens of row by row without a cache, also with inner padding."""
    directory = tiny_model(family)
    model, tokenizer = load_model(directory).model, load_tokenizer(directory)
    expected = [[by_hand(model, tokenizer, prompt, 8)] for prompt in SHARED]
    read = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    written = generate(model, tokenizer, SHARED, 8, 4)
    assert read[0] in ((1, 2), (4, 9))  # a window that is too short: all of it
    assert written == expected


def test_a_window_is_not_filled_with_padding(tiny_model):
    """Where the texts could grow beyond a window nothing is shared.

    Within it, two of the three tokens that are alike.
    """
    model = load_model(tiny_model("llama")).model
    assert _shared_prefix(model, SHARED, 8, None) == 2
    assert _shared_prefix(model, SHARED[:1], 8, None) == 0
    for key, width, shared in (
        ("sliding_window", 16, 0),
        ("sliding_window", 17, 2),
        ("attention_chunk_size", 16, 0),
    ):
        setattr(model.config, key, width)
        assert _shared_prefix(model, SHARED, 8, None) == shared
        setattr(model.config, key, None)


TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize(
    ("kind", "more", "alone"),
    [
        (
            "mpt",
            {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
            False,
        ),  # positions are places: nothing is shared
        ("bloom", {"n_head": 4, "n_layer": 2}, False),
        (
            "gpt_neo",
            {
                "num_layers": 2,
                "num_heads": 4,
                "attention_types": [[["global", "local"], 1]],
                "window_size": 8,
            },
            False,
        ),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, True),
        (
            "recurrent_gemma",
            {"lru_width": 32, "head_dim": 8, "block_types": ("recurrent", "attention")},
            True,
        ),
    ],
)
def test_models_without_a_family_file(kind, more, alone, tiny_model):
    """Other ways to know a place, and recurrent layers, whose states have read the padding.

    Those write one text at a time.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**TINY, **more}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4) if parameter.dim() > 1 else None
    tokenizer = load_tokenizer(tiny_model("llama"))
    expected = [[by_hand(model, tokenizer, prompt, 12)] for prompt in SHARED]
    rows = set()
    model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.add(len(kwargs["input_ids"])), with_kwargs=True
    )
    assert generate(model, tokenizer, SHARED, 12, 4) == expected
    assert (max(rows) == 1) is alone


@pytest.fixture
def longrope():
    """A Phi-3 that turns positions otherwise in texts of more than 32 tokens."""
    torch.manual_seed(0)
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0, 8.0, 12.0, 16.0], "factor": 4.0}
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "original_max_position_embeddings": 32,
        "partial_rotary_factor": 1.0,
        **factors,
    }
    config = AutoConfig.for_model(
        "phi3", **TINY, original_max_position_embeddings=32, rope_parameters=rope
    )
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4) if parameter.dim() > 1 else None
    return model.eval()


def test_what_is_read_is_read_again_where_rotary_positions_switch(longrope, tiny_model):
    """Texts that stay short, that cross the switch and that lie beyond it, in one call.

    As one row at a time without a cache.
    """
    rng = random.Random(0)
    tokenizer = load_tokenizer(tiny_model("llama"))
    some = [
        [5, 9, *(rng.randrange(3, 64) for _ in range(length))]
        for length in (3, 8, 14, 20, 24, 29, 30, 31, 45, 50)
    ]
    expected = [[by_hand(longrope, tokenizer, prompt, 12, (1, 2))] for prompt in some]
    for size in (1, 4, 10):
        assert generate(longrope, tokenizer, some, 12, size) == expected
    drawn = [
        generate(longrope, tokenizer, some, 12, size, sampling=Sampling(2)) for size in (1, 16)
    ]
    assert drawn[0] == drawn[1]


def test_scores_do_not_depend_on_a_longer_row_beside(longrope):
    """The longest row of a batch would decide how all are turned."""
    ids = [
        tuple(random.Random(length).randrange(3, 64) for _ in range(length))
        for length in (5, 10, 32, 33, 47)
    ]
    texts = [TokenizedRow(row, (IGNORED, *row[1:])) for row in ids]
    alone, together = (score(longrope, texts, ["row"] * 5, size, 0) for size in (1, 5))
    for one, other in zip(alone, together, strict=True):
        assert other.mean_loss == pytest.approx(one.mean_loss, rel=1e-5)


def test_a_text_without_a_rest_is_refused(tiny_model, tmp_path):
    """Nothing is left to be written, which is no zero."""
    directory = tiny_model("llama")
    question_set = questions(tmp_path, "verbatim", "verbatim", [{"text": "w5"}])
    tested = ModelUnderTest(
        load_model(directory).model, load_tokenizer(directory), [question_set], settings()
    )
    with pytest.raises(BadDataError, match=r"verbatim\.jsonl:1"):
        tested.measure([row_metrics()["verbatim_memorization"]])


def test_a_model_without_keys_and_values_is_refused(tiny_model):
    """Its state would be lost between tokens, without a word."""
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("mamba", **{**TINY, "state_size": 8})
    )
    with pytest.raises(BadModelError, match=r"a mamba model has no key-value cache"):
        generate(model, load_tokenizer(tiny_model("llama")), SHARED, 12, 4)
    with pytest.raises(BadModelError, match=r"a mamba model has no key-value cache"):
        ModelUnderTest(
            model, load_tokenizer(tiny_model("llama")), [], settings(robustness=("leak",))
        )


def test_a_broken_model_does_not_look_forgetful(tiny_model):
    """NaN is no word."""
    model = load_model(tiny_model("llama")).model
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    with pytest.raises(
        BadModelError, match="the model's logits are not finite while it generates text"
    ):
        generate(model, load_tokenizer(tiny_model("llama")), SHARED, 4, 4)


def test_a_question_that_does_not_fit_is_refused_where_only_writing_is_asked_for(
    tiny_model, tmp_path
):
    """Never cut, and no other set suffers."""
    directory = tiny_model("llama")
    model, tokenizer = load_model(directory).model, load_tokenizer(directory)
    question_set = questions(
        tmp_path, "knowledge", "knowledge", [{"question": " ".join(["w7"] * 140), "answer": "w1"}]
    )
    tested = ModelUnderTest(model, tokenizer, [question_set], settings())
    with pytest.raises(
        BadDataError, match=r"knowledge\.jsonl:1: the prompt needs 14\d tokens, the limit is 128"
    ):
        tested.measure([row_metrics()["knowledge_memorization"]])


def test_rows_that_have_ended_leave_the_batch(tiny_model, prompts):
    """No token is computed for them: the batch shrinks while the longest goes on."""
    directory = tiny_model("llama")
    model, tokenizer = load_model(directory).model, load_tokenizer(directory)
    rows = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    texts = [text for (text,) in generate(model, tokenizer, prompts, 20, len(prompts))]
    rows.clear()
    end = tokenizer.convert_tokens_to_ids(texts[0].split()[3])
    ended = generate(model, tokenizer, prompts, 20, len(prompts), stop=(end,))
    assert rows[-1] < len(prompts)
    assert rows[1:] == sorted(rows[1:], reverse=True)
    word = texts[0].split()[3]
    assert ended == [
        [" ".join(itertools.takewhile(lambda said: said != word, text.split()))] for text in texts
    ]


def test_it_ends_at_the_end_of_turn(tiny_model, prompts):
    """End tokens of the config, the tokenizer or the caller end a text and are not part of it."""
    directory = tiny_model("llama")
    model, tokenizer = load_model(directory).model, load_tokenizer(directory)
    whole = generate(model, tokenizer, prompts, 20, 8)
    third = tokenizer.convert_tokens_to_ids(whole[1][0].split()[2])
    assert generate(model, tokenizer, prompts, 20, 8, stop=(third,))[1] == [
        " ".join(whole[1][0].split()[:2])
    ]
    model.generation_config.eos_token_id = [1, third]
    assert generate(model, tokenizer, prompts, 20, 8)[1] == [" ".join(whole[1][0].split()[:2])]
    model.generation_config.eos_token_id = third
    tokenizer.eos_token = None
    assert generate(model, tokenizer, prompts, 20, 8)[1] == [" ".join(whole[1][0].split()[:2])]


def test_what_the_directory_recommends_for_chats_is_no_part_of_it(tiny_model, prompts):
    """Settings of generation_config.json change nothing, and are still there afterwards."""
    directory = tiny_model("llama")
    model, tokenizer = load_model(directory).model, load_tokenizer(directory)
    plain = generate(model, tokenizer, prompts, 20, 8)
    config = model.generation_config
    (
        config.repetition_penalty,
        config.temperature,
        config.do_sample,
        config.max_length,
        config.min_new_tokens,
    ) = (5.0, 9.0, True, 3, 19)
    assert generate(model, tokenizer, prompts, 20, 8) == plain
    assert model.generation_config is config
    assert config.repetition_penalty == 5.0


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_generator_are_put_back(training, tiny_model, prompts):
    """Also when it fails in the middle."""
    directory = tiny_model("llama")
    model, tokenizer = load_model(directory).model.train(training), load_tokenizer(directory)
    state, config = torch.random.get_rng_state(), model.generation_config

    def fail(done: int, total: int) -> None:
        raise RuntimeError

    generate(model, tokenizer, prompts, 4, 3, sampling=Sampling(2, 1.0, 0))
    with pytest.raises(RuntimeError):
        generate(model, tokenizer, prompts, 4, 3, sampling=Sampling(2, 1.0, 0), progress=fail)
    assert (model.training, model.generation_config) == (training, config)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_sampling_is_the_seeds_alone(tiny_model, prompts):
    """The same seed draws the same texts whatever was drawn before.

    Another seed draws others; samples differ.
    """
    directory = tiny_model("llama")
    model, tokenizer = load_model(directory).model, load_tokenizer(directory)
    one = generate(model, tokenizer, prompts, 10, 8, sampling=Sampling(4, 1.0, 3))
    torch.manual_seed(99)
    assert generate(model, tokenizer, prompts, 10, 8, sampling=Sampling(4, 1.0, 3)) == one
    assert generate(model, tokenizer, prompts, 10, 8, sampling=Sampling(4, 1.0, 4)) != one
    assert [len(texts) for texts in one] == [4] * len(prompts)
    assert all(len(set(texts)) > 1 for texts in one)


def test_a_drawn_text_does_not_depend_on_its_batch(tiny_model, prompts):
    """Nor on the order of the prompts: so not on how many processes share them either."""
    directory = tiny_model("llama")
    model, tokenizer = load_model(directory).model, load_tokenizer(directory)
    one, other = (
        generate(model, tokenizer, some, 10, size, sampling=Sampling(3))
        for some, size in ((prompts, 8), (prompts[::-1], 1))
    )
    assert one == other[::-1]
    assert generate(model, tokenizer, prompts[:1], 10, 2, sampling=Sampling(2)) == [one[0][:2]]


def test_words_are_drawn_with_their_probabilities():
    """20,000 draws from five logits: a chi-squared test of the frequencies, at two temperatures.

    And no two rows alike.
    """
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, -30.0])
    for temperature in (1.0, 0.5):
        draw = RandomChoice(range(20_000), temperature)
        counts = torch.bincount(draw(logits.expand(20_000, -1)), minlength=5).numpy()
        expected = (logits / temperature).softmax(-1).double().numpy() * 20_000
        assert counts[4] == 0
        assert (
            chisquare(counts[:4], expected[:4] * counts[:4].sum() / expected[:4].sum()).pvalue
            > 1e-3
        )


def test_a_low_temperature_is_greedy(tiny_model, prompts):
    """Samples at temperature 0.001 are the greedy text; so each prompt has its own samples."""
    directory = tiny_model("llama")
    model, tokenizer = load_model(directory).model, load_tokenizer(directory)
    greedy = generate(model, tokenizer, prompts, 6, 8)
    sampled = generate(model, tokenizer, prompts, 6, 4, sampling=Sampling(2, 1e-3, 0))
    assert sampled == [texts * 2 for texts in greedy]


@pytest.mark.parametrize("seed", [2**31, 2**63, 10**30])
def test_any_seed_will_do(seed, tiny_model, prompts):
    """A seed of many digits is a seed."""
    directory = tiny_model("llama")
    model, tokenizer = load_model(directory).model, load_tokenizer(directory)
    assert generate(model, tokenizer, prompts, 3, 8, sampling=Sampling(2, 1.0, seed))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_nothing_is_written_beyond_the_context(family, tiny_model, tmp_path):
    """A prompt of 100 of 128 tokens leaves 28 for all rows of a call.

    Learned positions end there, too.
    """
    directory = tiny_model(family)
    question_set = questions(
        tmp_path,
        "forget",
        "forget",
        [{"question": " ".join(["w7"] * 99), "answer": "w1"}, *rows(3, 0)],
    )
    model, tokenizer = load_model(directory).model, load_tokenizer(directory)
    tested = ModelUnderTest(model, tokenizer, [question_set], settings(max_new_tokens=200))
    written = tested.write([question_set])
    assert len(written) == 4
    assert max(len(text.split()) for text in written.values()) == 29
    alone = ModelUnderTest(
        model, tokenizer, [question_set], settings(max_new_tokens=29, batch_size=1)
    ).write([question_set])
    assert written == alone


def test_a_templates_end_of_turn_ends_an_answer(tmp_path):
    """ChatML's mark ends a text though neither config nor tokenizer list it as an end."""
    from tiny_models import CHATML, make_model, make_tokenizer

    tokenizer = make_tokenizer(CHATML)
    model = make_model("llama", vocabulary=len(tokenizer))
    mark = tokenizer.convert_tokens_to_ids("<|im_end|>")
    question_set = questions(
        tmp_path, "forget", "forget", [{"question": "Where?", "answer": "In Oskel."}]
    )
    tested = ModelUnderTest(model, tokenizer, [question_set], settings())
    assert tested.encoder.ends(question_set.questions) == (mark,)
    free = generate(model, tokenizer, [tested.encoder.prompt(question_set.questions[0])], 8, 1)[0][
        0
    ]
    with torch.no_grad():
        # The mark is now always what comes first to the model's mind.
        model.lm_head.weight.zero_()
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
        model.lm_head.bias[mark] = 1.0
    assert free != ""
    assert tested.write([question_set]) == {("forget", 0): ""}
    assert generate(model, tokenizer, [[5]], 8, 1) == [[""]]  # marks alone, skipped one by one
