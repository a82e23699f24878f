"""T of a block of rows at a time is T of the whole tensor, for every shape, axis and blocking."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpu_cli.server.transforms.axis_maps import PlaneRotation, SignedPermutation
from mpu_cli.server.transforms.blockwise import BlockwiseTransform, matrix, row_blocks

SHAPES = st.one_of(
    st.tuples(st.integers(1, 60)),
    st.tuples(st.integers(1, 24), st.integers(1, 12)),
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 8)),
)


def signed_permutation(generator, axis, size):
    """A random one of a whole axis."""
    return SignedPermutation(axis, generator.permutation(size), generator.choice([-1, 1], size))


def rotation(generator, axis, size):
    """Random disjoint pairs of an axis, not all of it."""
    order = generator.permutation(size)[: size // 2 * 2]
    return PlaneRotation(axis, order[::2], order[1::2], generator.uniform(0, 6, len(order) // 2))


def whole(maps, tensor, *, back=False):
    """The axis maps applied to the whole tensor, one after the other."""
    for step in reversed(maps) if back else maps:
        tensor = (step.inverse() if back else step).apply(tensor)
    return tensor


def blockwise(transform, tensor, entries):
    """T, a block of rows at a time, scattered to its places."""
    rows = tensor.view(transform.rows, transform.columns)
    moved = torch.full_like(rows, float("nan"))
    for start, stop in row_blocks(tuple(tensor.shape), [transform], entries):
        places = transform.places(start, stop)
        assert (np.diff(places) > 0).all()
        moved[torch.from_numpy(places.copy())] = transform.apply(rows[start:stop], start)
    return moved.view(tensor.shape)


def blockwise_back(transform, tensor, entries):
    """T⁻¹, gathered a block of rows at a time."""
    rows = tensor.view(transform.rows, transform.columns)
    parts = [
        transform.invert(rows[torch.from_numpy(transform.places(start, stop).copy())], start)
        for start, stop in row_blocks(tuple(tensor.shape), [transform], entries)
    ]
    return torch.cat(parts).view(tensor.shape)


@given(
    shape=SHAPES,
    steps=st.integers(0, 4),
    seed=st.integers(0, 10**6),
    entries=st.integers(1, 200),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
@settings(deadline=None, max_examples=150)
def test_signed_permutations_in_blocks(shape, steps, seed, entries, dtype):
    """Any number of them on any axes, applied and inverted, bit for bit."""
    generator = np.random.default_rng(seed)
    axes = generator.integers(0, len(shape), steps)
    maps = [signed_permutation(generator, int(axis), shape[axis]) for axis in axes]
    tensor = torch.from_numpy(generator.standard_normal(shape)).to(getattr(torch, dtype))
    before = tensor.clone()
    transform = BlockwiseTransform(maps, shape)
    moved = blockwise(transform, tensor, entries)
    assert (
        transform.exact and torch.equal(moved, whole(maps, tensor)) and torch.equal(tensor, before)
    )
    assert torch.equal(blockwise_back(transform, moved, entries), tensor) and torch.equal(
        whole(maps, moved, back=True), tensor
    )


@given(
    rows=st.integers(2, 24),
    columns=st.integers(2, 12),
    seed=st.integers(0, 10**6),
    entries=st.integers(1, 100),
)
@settings(deadline=None, max_examples=100)
def test_rotations_in_blocks(rows, columns, seed, entries):
    """Rotations of rows and columns, then a permutation of rows; no block separates a pair."""
    generator = np.random.default_rng(seed)
    maps = [
        rotation(generator, 0, rows),
        rotation(generator, 1, columns),
        signed_permutation(generator, 0, rows),
    ]
    tensor = torch.from_numpy(generator.standard_normal((rows, columns))).float()
    transform = BlockwiseTransform(maps, (rows, columns))
    moved = blockwise(transform, tensor, entries)
    assert not transform.exact and torch.equal(moved, whole(maps, tensor))
    assert torch.equal(blockwise_back(transform, moved, entries), whole(maps, moved, back=True))
    assert torch.allclose(blockwise_back(transform, moved, entries), tensor, atol=1e-6)


def test_a_rotation_after_a_permutation_of_its_axis_is_refused():
    """An order that blocks cannot reproduce is refused; no transform needs it."""
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="must come before"):
        BlockwiseTransform([signed_permutation(generator, 0, 4), rotation(generator, 0, 4)], (4, 3))
    with pytest.raises(ValueError, match="must come before"):
        BlockwiseTransform([rotation(generator, 1, 4)], (2, 4, 3))


def test_matrices_and_empty_tensors():
    """A vector is one column, further axes are rows, and an empty tensor has no blocks."""
    assert [matrix(shape) for shape in ((5,), (2, 3), (2, 3, 4), (0, 4))] == [
        (5, 1),
        (2, 3),
        (6, 4),
        (0, 4),
    ]
    assert list(row_blocks((0, 4), [])) == list(row_blocks((4, 0), [])) == []
    assert list(row_blocks((5, 4), [], 8)) == [(0, 2), (2, 4), (4, 5)]


@given(
    shape=SHAPES,
    steps=st.integers(0, 3),
    seed=st.integers(0, 10**6),
    entries=st.integers(1, 200),
    turned=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_results_in_given_memory(shape, steps, seed, entries, turned):
    """Results in the caller's memory are the same, and θ's block does not change."""
    generator = np.random.default_rng(seed)
    maps = [rotation(generator, 0, shape[0])] if turned and len(shape) < 3 else []
    maps += [
        signed_permutation(generator, axis := int(generator.integers(len(shape))), shape[axis])
        for _ in range(steps)
    ]
    tensor = torch.from_numpy(generator.standard_normal(shape)).float()
    before, transform = tensor.clone(), BlockwiseTransform(maps, shape)
    rows = tensor.view(transform.rows, transform.columns)
    for start, stop in row_blocks(shape, [transform], entries):
        fresh = transform.apply(rows[start:stop], start)
        memory = torch.full_like(fresh, float("nan"))
        assert torch.equal(transform.apply(rows[start:stop], start, memory), fresh) and torch.equal(
            memory, fresh
        )
        back = transform.invert(fresh.clone(), start)
        assert torch.equal(
            transform.invert(fresh, start, torch.full_like(fresh, float("nan"))), back
        )
    assert torch.equal(tensor, before)


def test_places_can_be_multiplied_to_bytes():
    """They have 64 bits: offsets in a tensor of more than 2 GiB do not fit into 32."""
    generator = np.random.default_rng(0)
    for maps in ([], [signed_permutation(generator, 0, 8)]):
        assert BlockwiseTransform(maps, (8, 2)).places(2, 5).dtype == np.int64
