"""`mpu audit`: what the other party can learn, measured by attacking our own files.

Each subcommand is a file of its own, `cli/audit_NAME.py`; this one only puts them together.
"""

from __future__ import annotations

import typer

from mpu_cli.cli.audit_handoff import GUIDE as HANDOFF_GUIDE
from mpu_cli.cli.audit_handoff import handoff
from mpu_cli.cli.audit_trace import trace
from mpu_cli.cli.audit_update import update
from mpu_cli.cli.config import ConfigCommand
from mpu_cli.cli.guide import Guide

GUIDE = Guide(
    "both",
    "Attack your own files to see what they give away.",
    (
        "# the server, before it hands the copies out",
        "mpu audit handoff to-client --secret server --model model --base base",
        "# the client, before it hands the update over",
        "mpu audit update to-server to-client --forget forget.jsonl --decoys holdout.jsonl",
        "# the server, when somebody has found a model",
        "mpu audit trace to-client/copy-1 --secret server",
    ),
)
GUIDES = {
    "handoff": HANDOFF_GUIDE,
    "update": Guide(
        "client",
        "Attack an update as the server could (mpu audit update).",
        ("mpu audit update to-server to-client --forget forget.jsonl --decoys holdout.jsonl",),
    ),
    "trace": Guide(
        "server",
        "Name the copy that a found model came from (mpu audit trace).",
        ("mpu audit trace to-client/copy-1 --secret server",),
    ),
}
audit = typer.Typer(name="audit", add_completion=False, rich_markup_mode=None)


@audit.callback()
def group() -> None:
    """Measure what the other party can learn, by attacking your own files."""


audit.command("handoff", cls=ConfigCommand)(handoff)
audit.command("update", cls=ConfigCommand)(update)
audit.command("trace", cls=ConfigCommand)(trace)
