"""docs/api.md: its code runs as it is printed, block after block."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from rounds import FORGET, RETAIN

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.mark.slow
def test_the_page_runs(tiny_pair, tmp_path, monkeypatch, capsys) -> None:
    """In a directory with the files that the page names; each block may use those before it."""
    monkeypatch.chdir(tmp_path)
    pair = tiny_pair("llama")
    shutil.copytree(pair.model, "model")
    shutil.copytree(pair.base, "base")
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = PAGE.read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        line = text[: block.start()].count("\n") + 1
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "answer_probability" in printed
    assert Path("model-next", "config.json").is_file()
