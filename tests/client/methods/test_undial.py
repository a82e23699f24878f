"""UnDIAL: the paper's formula in numpy, and the published defaults."""

from __future__ import annotations

from method_cases import MethodCase, Values, World, one_hot, retained, softmax, token_mean


def formula(now: World, before: World, start: World, p: Values) -> float:
    """Cross entropy to the reference's lowered logits."""
    pairs = zip(now.forget, before.forget, strict=True)
    entropy = [
        -(softmax(ref.z - p["beta"] * one_hot(ref)) * row.log_p).sum(-1) for row, ref in pairs
    ]
    return p["gamma"] * token_mean(entropy) + (retained(now, before, p) if p["alpha"] else 0.0)


CASE = MethodCase(
    formula,
    published={"beta": 10.0, "gamma": 1.0, "alpha": 0.0, "retain_loss": "NLL"},
    sensitive={"beta": 1},
)
