"""Every family file on tiny models of its own configurations; no test names a family.

Norms and biases are random (`tiny_families`): the default initialisation would hide mistakes.
"""

import pytest
import torch
from safetensors.torch import load_file
from two_parties import hand_back, layout_of, publish, take_back, untrained

from mpu_cli.architectures.family import families
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError, FunctionChangedError
from mpu_cli.modeling.head import logits_at
from mpu_cli.modeling.hooks.loading import auto_class
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import quiet_transformers
from mpu_cli.server import transforms
from mpu_cli.server.publishing.function_check import check_layer, require_passed
from mpu_cli.server.transforms.choice import chosen, statuses
from mpu_cli.server.transforms.draw import draw_layer
from tiny_families import VALID_ERROR, agrees, logits, tiny_models, transform_errors

TINY = {tiny.name: tiny for tiny in tiny_models()}
MASTER = bytes(range(32))


@pytest.fixture(scope="module")
def measured(built_tiny):
    """What each transform does to a tiny model's logits, measured once."""
    errors = {}

    def measure(name):
        if name not in errors:
            errors[name] = transform_errors(built_tiny(name))
        return errors[name]

    return measure


@pytest.mark.parametrize("name", TINY)
def test_every_transform_does_what_the_facts_say(built_tiny, measured, name):
    """Logits change by at most 1e-5 of their RMS (float64) if valid, by more than 1e-2 if invalid.

    A transform with nothing to act on moves no tensor. An invalid one that changes nothing means
    that the family's file does not state a fact.
    """
    status = statuses(layout_of(built_tiny(name)))
    assert set(status) == set(transforms.names())
    wrong = {
        key: (status[key], error)
        for key, error in measured(name).items()
        if not agrees(status[key].kind, error)
    }
    assert not wrong


@pytest.mark.parametrize("family", sorted({tiny.family.name for tiny in TINY.values()}))
def test_a_fact_that_depends_on_the_configuration_is_tested_both_ways(family):
    """Tiny configurations have, and lack, the config key that a norm or clipping depends on."""
    variants = [tiny for tiny in TINY.values() if tiny.family.name == family]
    section = variants[0].family.attention or variants[0].family.latent_attention
    for key in {section.clip, section.qk_norm_if} - {None, "none"}:
        values = {bool(tiny.family.tiny[tiny.variant].get(key)) for tiny in variants}
        assert values == {False, True}, key


@pytest.mark.parametrize("name", TINY)
def test_logits_of_some_positions_are_those_of_all(built_tiny, name):
    """Also with scales and soft caps after the head; other positions do not pass through it."""
    model = load_model(built_tiny(name)).model.eval()
    ids = torch.randint(
        0,
        model.config.get_text_config().vocab_size,
        (3, 9),
        generator=torch.Generator().manual_seed(0),
    )
    wanted = torch.rand(3, 9, generator=torch.Generator().manual_seed(1)) < 0.4
    wanted[1] = False
    rows, seen = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, []
    model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, out: seen.append(out.shape[:-1])
    )
    with torch.no_grad():
        found, whole = logits_at(model, rows, wanted), model(**rows, use_cache=False).logits
        none = logits_at(model, rows, torch.zeros_like(wanted))
    assert seen == [(1, int(wanted.sum())), (3, 9), (1, 0)]
    assert torch.allclose(found, whole[wanted], rtol=1e-4, atol=1e-5 * whole.abs().max())
    assert not torch.allclose(found, whole[wanted.roll(1, 1)])
    assert none.shape == (0, whole.shape[-1])


@pytest.mark.parametrize("name", TINY)
def test_inverses_are_exact_as_declared(built_tiny, name):
    """T⁻¹T returns the same bits where the transform says EXACT, and nearly the same elsewhere."""
    directory = built_tiny(name)
    layout, weights = layout_of(directory), load_file(directory / "model.safetensors")
    for transform in transforms.names():
        exact = transforms.load(transform).EXACT
        for layer in layout.layers:
            steps = draw_layer((transform,), layer, MASTER, "inverse", 0)
            assert steps.exact == (exact or not steps.maps)
            assert sorted(map(steps.target, layer.noised)) == sorted(layer.noised)
            for tensor in layer.noised:
                back = steps.invert(tensor, steps.apply(tensor, weights[tensor]))
                assert (
                    torch.equal(back, weights[tensor])
                    if exact
                    else torch.allclose(back, weights[tensor], atol=1e-6)
                )


@pytest.mark.parametrize("name", TINY)
def test_published_copies_load_and_compute_the_same(built_tiny, entropy, tmp_path, name):
    """κ = 0: from_pretrained loads the copies, which have θ's logits, and every check passes."""
    directory = built_tiny(name)
    result = publish(
        directory,
        None,
        tmp_path / "h",
        tmp_path / "s",
        entropy(3),
        kappa=0.0,
        copies=2,
        check="all",
    )
    expected = logits(directory)
    scale = float(expected.square().mean().sqrt())
    for copy in sorted((tmp_path / "h").glob("copy-*")):
        assert (load_file(copy / "model.safetensors").keys()) == load_file(
            directory / "model.safetensors"
        ).keys()
        assert float((logits(copy) - expected).abs().max()) <= VALID_ERROR * scale
    assert (
        len(result.checks) == 2 * 2
        and max(check.difference / check.rounding for check in result.checks) < 5
    )


@pytest.mark.parametrize("name", TINY)
def test_an_update_of_nothing_gives_the_model_back(built_tiny, entropy, tmp_path, name):
    """Noise but no training: aggregation returns θ bit for bit."""
    directory = built_tiny(name)
    publish(
        directory,
        None,
        tmp_path / "h",
        tmp_path / "s",
        entropy(4),
        kappa=0.05,
        copies=2,
        noise_relative_to="weights",
    )
    untrained(tmp_path / "h", tmp_path / "u")
    take_back(tmp_path / "u", tmp_path / "s", directory, tmp_path / "next")
    before, after = (
        load_file(directory / "model.safetensors"),
        load_file(tmp_path / "next" / "model.safetensors"),
    )
    assert before.keys() == after.keys() and all(
        torch.equal(before[key], after[key]) for key in before
    )


@pytest.mark.parametrize("steps", [5, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", TINY)
def test_training_commutes_with_the_signed_permutation(built_tiny, entropy, tmp_path, name, steps):
    """κ = 0, AdamW on θ and on a copy: the aggregated update is the plain one to 5e-5.

    Key biases that RoPE does not turn are left out: softmax cancels them, so their gradient is
    rounding alone, which AdamW scales up to its full step. So is the one entry that differs most:
    on some machines a single gradient of gpt-neox/sequential is rounding alone (5.3e-5 with it).
    """
    directory = built_tiny(name)
    publish(directory, None, tmp_path / "h", tmp_path / "s", entropy(5), kappa=0.0, copies=1)
    train(directory, tmp_path / "plain", steps)
    train(tmp_path / "h" / "copy-1", tmp_path / "trained" / "copy-1", steps)
    hand_back(tmp_path / "h", tmp_path / "trained", tmp_path / "u")
    take_back(tmp_path / "u", tmp_path / "s", directory, tmp_path / "next")
    places = (directory, tmp_path / "plain", tmp_path / "next")
    theta, plain, ours = (
        {key: value.double() for key, value in load_file(path / "model.safetensors").items()}
        for path in places
    )
    for layer in layout_of(directory).layers:
        for slot in layer.slots.get("k_free", ()):
            if theta[slot.tensor].dim() == 1:
                for weights in (theta, plain, ours):
                    weights[slot.tensor][torch.tensor(slot.index.ravel())] = 0.0
    squares = [(ours[key] - plain[key]).square() for key in theta]
    worst = max(float(one.max()) for one in squares)
    error = max(0.0, sum(float(one.sum()) for one in squares) - worst) ** 0.5
    update = sum(float((plain[key] - theta[key]).square().sum()) for key in theta) ** 0.5
    assert update > 0 and error <= 5e-5 * update, error / update
    before, expected, found = map(logits, places)
    assert float((found - expected).norm()) <= 1e-4 * float((expected - before).norm())


@pytest.mark.parametrize("name", TINY)
def test_tensors_that_do_not_belong_or_are_missing_are_refused(built_tiny, name):
    """A foreign tensor in a layer, and each missing tensor of the last layer, stop perturb."""
    directory = built_tiny(name)
    model = open_checkpoint(directory)
    layout = layout_of(directory)
    last = layout.layers[-1]
    foreign = last.noised[0].rpartition(".")[0] + ".adapter.weight"
    with pytest.raises(BadModelError, match="is not part of"):
        read_layout(model.config, {**shapes(model.tensors), foreign: (3,)}, directory)
    names = chosen("signed-permutation", layout)
    for missing in last.noised:
        tensors = {key: info for key, info in model.tensors.items() if key != missing}
        try:
            rest = read_layout(
                model.config, {key: info.shape for key, info in tensors.items()}, directory
            )
        except BadModelError:
            continue
        layer = rest.layers[-1]
        with pytest.raises(FunctionChangedError):
            require_passed(
                check_layer(model, rest, layer, [draw_layer(names, layer, MASTER, "missing", 0)])
            )


def test_one_file_describes_each_configuration():
    """The conditions of files that share a model_type exclude each other."""
    for tiny in TINY.values():
        settings = {**tiny.family.tiny[tiny.variant]}
        matching = [
            family.name
            for family in families()[tiny.family.model_types[0]]
            if family.matches(settings)
        ]
        assert matching == [tiny.family.name]


def train(source, out, steps):
    """Train for some AdamW steps of next-token loss with frozen embeddings, and save."""
    from transformers import AutoConfig

    with quiet_transformers():
        config = AutoConfig.from_pretrained(source)
        model = auto_class(config).from_pretrained(
            source, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
        )
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            for parameter in module.parameters():
                parameter.requires_grad_(False)
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.01
        )
        generator = torch.Generator().manual_seed(1)
        model.eval()
        for _ in range(steps):
            ids = torch.randint(2, 60, (4, 12), generator=generator)
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        model.save_pretrained(out)
