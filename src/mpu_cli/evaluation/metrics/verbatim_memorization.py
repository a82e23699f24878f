"""Verbatim memorization: ROUGE-L F1 of the model's continuation of a text (MUSE's VerbMem).

MUSE, arXiv 2407.06460, section 3.1. MUSE's own file has each text in two parts (`prompt`, `gt`); of
a plain text, the first half of its tokens is the prompt.
"""

from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.metrics.rouge import NO_WORD, f1, stemmed_f1
from mpu_cli.evaluation.questions import FORGET, RETAIN, VERBATIM

METRICS = tuple(
    RowMetric(
        name=name,
        about=f"ROUGE-L F1 of greedy continuation against the text's own, words {words}",
        source=source,
        better="lower",
        roles=(FORGET, RETAIN, VERBATIM),
        item=item,
        variants=(),
        generates=True,
        form="text",
        gap=NO_WORD,
    )
    for name, words, item, source in (
        (
            "verbatim_memorization",
            "as they are",
            f1,
            "MUSE, arXiv 2407.06460, section 3.1 (VerbMem)",
        ),
        ("verbatim_memorization_stemmed", "stemmed", stemmed_f1, "open-unlearning (its VerbMem)"),
    )
)
