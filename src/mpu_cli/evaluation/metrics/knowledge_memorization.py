"""Knowledge memorization: ROUGE-L F1 of the model's answers to questions (MUSE's KnowMem).

MUSE, arXiv 2407.06460, section 3.1.
"""

from mpu_cli.evaluation.metric import QUESTIONS, RowMetric
from mpu_cli.evaluation.metrics.rouge import NO_WORD, f1, stemmed_f1
from mpu_cli.evaluation.questions import KNOWLEDGE

METRICS = tuple(
    RowMetric(
        name=name,
        about=f"ROUGE-L F1 of greedy generation against the answer, words {words}",
        source=source,
        better="lower",
        roles=(*QUESTIONS, KNOWLEDGE),
        item=item,
        variants=(),
        generates=True,
        form="question",
        gap=NO_WORD,
    )
    for name, words, item, source in (
        (
            "knowledge_memorization",
            "as they are",
            f1,
            "MUSE, arXiv 2407.06460, section 3.1 (KnowMem)",
        ),
        (
            "knowledge_memorization_stemmed",
            "stemmed",
            stemmed_f1,
            "open-unlearning (its KnowMem, and rougeL_f1 of Q_A_ROUGE)",
        ),
    )
)
