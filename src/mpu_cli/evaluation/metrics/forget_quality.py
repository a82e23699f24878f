"""Forget quality: whether truth ratios differ from those of a model without the forget set.

TOFU, arXiv 2401.06121, section 2.2.3: the p-value of a two-sample Kolmogorov–Smirnov test. A
p-value depends on the number of rows: with 40 rows it is rarely small, with 400 nearly always. The
statistic, the largest distance between the two distribution functions, does not depend on it and is
reported too; 0 is forgotten.
"""

from mpu_cli.evaluation.columns import Columns
from mpu_cli.evaluation.metric import ModelMetric
from mpu_cli.evaluation.questions import FORGET


def _test(columns: Columns) -> tuple[float, float]:
    """The test's statistic and p-value."""
    ours, theirs = columns.of(FORGET, "ratio"), columns.retained().of(FORGET, "ratio")
    from scipy.stats import ks_2samp  # takes longer to import than a comparison of records takes

    result = ks_2samp(ours, theirs)
    return float(result.statistic), float(result.pvalue)


_SOURCE = "TOFU, arXiv 2401.06121, section 2.2.3"

METRICS = (
    ModelMetric(
        name="forget_quality",
        about="p-value of a KS test of R on the forget set against --retain-record's",
        source=_SOURCE,
        better="higher",
        uses=("ratio",),
        value=lambda columns: _test(columns)[1],
        interval=False,
    ),
    ModelMetric(
        name="forget_distance",
        about="the KS test's statistic: largest distance of the distribution functions of R",
        source=_SOURCE,
        better="lower",
        uses=("ratio",),
        value=lambda columns: _test(columns)[0],
        interval=False,
    ),
)
