"""Makes the tiny tokenizers importable for the tests of data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# By path, so that it works under each of pytest's import modes.
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
