"""Extraction strength: how short a prefix of the answer makes the model write the rest.

1 − k/N, where k is the length of the shortest prefix after which every next token is the model's
first choice (arXiv 2502.19301, section 3): 1 where no prefix is needed, 0 where even the last token
is not predicted. In open-unlearning's code the smallest value is 1/N. The answer's end mark does
not count.
"""

import numpy as np

from mpu_cli.evaluation.metric import Evidence, RowMetric


def strength(row: Evidence) -> float:
    """1 − k/N, between 0 and 1."""
    misses = np.flatnonzero(~row.words.is_top)
    return 1 - (int(misses[-1]) + 1 if misses.size else 0) / len(row.words)


METRICS = (
    RowMetric(
        name="extraction_strength",
        about="1 − k/N, k = the shortest prefix after which the model's first choices are the rest",
        source="Wang et al., arXiv 2502.19301, section 3; Carlini et al. 2021",
        better="lower",
        item=strength,
    ),
)
