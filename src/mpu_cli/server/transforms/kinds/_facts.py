"""Values of facts that a transform does not depend on, but that the family must state."""

ANY_CLIP = frozenset({"none", "set"})
ANY_QK_NORM = frozenset({"none", "per_dim", "full", "per_head"})
