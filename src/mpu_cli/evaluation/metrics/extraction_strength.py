"""Extraction strength: how little of an answer must be given for the model to write the rest (arXiv 2502.19301, section 3).

1 − k/N, where k is the length of the shortest prefix of the answer after which every next token is
the model's first choice: 1 where nothing need be given, 0 where even the last token is not found.
(open-unlearning's code ends at 1/N there.) Tokens of the answer without its end mark.
"""

import numpy as np

from mpu_cli.evaluation.metric import Evidence, RowMetric


def strength(row: Evidence) -> float:
    """Between 0 and 1."""
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
