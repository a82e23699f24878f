"""Verbatim memorization: ROUGE-L F1 of how the model goes on with a text (MUSE, arXiv 2407.06460, section 3.1, VerbMem).

MUSE's own file brings each text cut in two (`prompt`, `gt`); of a plain text, the first half of its tokens is the prompt.
"""

from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.metrics.rouge import f1
from mpu_cli.evaluation.questions import FORGET, RETAIN, VERBATIM

METRICS = (
    RowMetric(
        name="verbatim_memorization",
        about="ROUGE-L F1 of greedy continuation against the text's own",
        source="MUSE, arXiv 2407.06460, section 3.1 (VerbMem)",
        better="lower",
        roles=(FORGET, RETAIN, VERBATIM),
        item=f1,
        variants=(),
        generates=True,
        form="text",
    ),
)
