"""`mpu diff`: the update from copies that another program trained (client)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpu_cli.cli.archives import Pack, check_pack, unpacked, write_packs
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import after_update
from mpu_cli.cli.options import Config, Force, Json, ShardSize, choice, use_one_thread
from mpu_cli.cli.output import Output

GUIDE = Guide(
    "client",
    "Make the update from copies that another program trained.",
    ("mpu diff to-client trained --out to-server-3",),
)


def diff(
    context: typer.Context,
    handoff: Annotated[
        Path, typer.Argument(help="The handoff that was trained on: a directory or a tar file.")
    ],
    trained: Annotated[
        Path,
        typer.Argument(help="Directory with the trained models or PEFT adapters, copy-1 … copy-m."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Directory for the update.")],
    delta_dtype: Annotated[
        str, typer.Option(help="float32 or bfloat16: how the change is stored.")
    ] = "float32",
    merge: Annotated[
        bool, typer.Option("--merge", help="Write an adapter as the full change that it makes.")
    ] = False,
    max_shard_size: ShardSize = "50GB",
    pack: Pack = None,
    force: Force = False,
    json: Json = False,
    config: Config = None,
) -> None:
    """Make the update from copies trained by any program.

    After − published, by on-disk tensor names.

    Train every copy with the same data order and seed and with dropout off: what differs between
    the copies for other reasons than the noise does not cancel. With LoRA draw the same A for every
    copy, and adapt q, k, v, gate and up only.
    """
    output = Output(context, as_json=json)
    choice("--delta-dtype", delta_dtype, ("float32", "bfloat16"))
    from mpu_cli.checkpoint.writer import parse_size
    from mpu_cli.client.delta import DeltaFormat
    from mpu_cli.client.diff import diff as run

    use_one_thread()
    packs = check_pack(pack, [out], [handoff, trained], force=force)
    with unpacked(output, handoff) as [place], output.progress(f"writing {out.name}"):
        update = run(
            place,
            trained,
            out,
            DeltaFormat(delta_dtype, parse_size(max_shard_size)),
            merge=merge,
            force=force,
            warn=output.warn,
        )
    write_packs(output, packs, force=force)
    output.result(
        {
            "update": str(out),
            "digest": update.digest,
            "handoff": update.handoff_id,
            "copies": len(update.copies),
            "packed": [str(pack)] if pack else [],
        },
        f"update of {len(update.copies)} copies",
        *after_update(out, handoff, {}, pack),
        brief=f"update {pack or out}",
    )
