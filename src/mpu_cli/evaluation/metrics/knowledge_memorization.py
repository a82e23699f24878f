"""Knowledge memorization: ROUGE-L F1 of what the model answers to questions (MUSE, arXiv 2407.06460, section 3.1, KnowMem)."""

from mpu_cli.evaluation.metric import QUESTIONS, RowMetric
from mpu_cli.evaluation.metrics.rouge import f1
from mpu_cli.evaluation.questions import KNOWLEDGE

METRICS = (
    RowMetric(
        name="knowledge_memorization",
        about="ROUGE-L F1 of greedy generation against the answer",
        source="MUSE, arXiv 2407.06460, section 3.1 (KnowMem)",
        better="lower",
        roles=(*QUESTIONS, KNOWLEDGE),
        item=f1,
        variants=(),
        generates=True,
        form="question",
    ),
)
