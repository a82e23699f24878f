"""Do published copies compute what the model computes? `function.py MODEL` (float32, κ = 0).

Prints the RMS difference of the copies' float32 logits from the model's float64 logits, relative to
the logits' RMS, beside the model's own float32–float64 difference: its rounding. The bar (design,
section 10) is three times that.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from mpu_cli.checkpoint.locate import Located
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PerturbSettings


def logits(path: Path, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(B, T, V) logits of a model directory, computed in `dtype`."""
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)(
            input_ids=tokens
        ).logits.double()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument(
        "--reparam", default="signed-permutation", choices=["signed-permutation", "rotation"]
    )
    options = parser.parse_args()
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(2)
    tokens = torch.randint(0, 1000, (2, 64), generator=torch.Generator().manual_seed(0))
    exact = logits(options.model, tokens, torch.float64)
    scale = exact.square().mean().sqrt()

    def difference(path: Path) -> float:
        return float((logits(path, tokens, torch.float32) - exact).square().mean().sqrt() / scale)

    own = difference(options.model)
    print(f"the model's own rounding: {own:.2e} of the logits' RMS")
    with tempfile.TemporaryDirectory() as folder:
        handoff = Path(folder) / "to-client"
        settings = PerturbSettings(
            kappa=0.0, check="none", dtype="float32", reparam=options.reparam
        )
        perturb(
            Located(options.model, None), None, Target(handoff, Path(folder) / "secret"), settings
        )
        for copy in sorted(handoff.glob("copy-*")):
            found = difference(copy)
            print(
                f"{copy.name}: {found:.2e}, {found / own:.2f} times the model's own rounding"
                " (bar 3)"
            )


if __name__ == "__main__":
    main()
