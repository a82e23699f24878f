"""`mpu diff`: the update from copies that another program trained (client)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpu_cli.checkpoint.settings import StorageSettings, UpdateDtype
from mpu_cli.cli.archives import check_pack, unpacked, write_packs
from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import after_update
from mpu_cli.cli.options import Shared, use_one_thread
from mpu_cli.cli.output import Output
from mpu_cli.cli.signing import HandoffSigners, Signing, signature_content, signing_key
from mpu_cli.option import REQUIRED, option, same_option

GUIDE = Guide(
    "client",
    "Make the update from copies that another program trained.",
    ("mpu diff to-client trained --out to-server-3",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffOptions(Job):
    """What `mpu diff` was asked to do."""

    handoff: Path = option(
        REQUIRED,
        "Handoff that was trained on: a directory or a tar file.",
        panel="Model",
        flag="HANDOFF",
    )
    trained: Path = option(
        REQUIRED,
        "Directory with the trained models or PEFT adapters, copy-1 … copy-m.",
        flag="TRAINED",
    )
    signers: HandoffSigners
    out: Path = option(REQUIRED, "Directory for the update.", panel="Output", metavar="DIR")
    merge: bool = option(
        False,
        "Merge adapters: write the full change of the weights.",
    )
    delta_dtype: UpdateDtype = same_option(Shared, "delta_dtype")
    max_shard_bytes: int = same_option(StorageSettings, "max_shard_bytes")
    sign: Path | None = same_option(Signing, "sign")
    pack: Path | None = same_option(Shared, "pack")
    force: bool = same_option(Shared, "force")


@command()
def diff(job: DiffOptions, output: Output) -> None:
    """Make the update from copies that any program trained: trained minus published weights.

    Train every copy with the same data order, the same seed and without dropout: differences
    between the copies that do not come from the noise do not cancel. With LoRA use the same matrix
    A for every copy, and adapt only q, k, v, gate and up.
    """
    from mpu_cli.client.delta import DeltaFormat
    from mpu_cli.client.diff import diff as run

    use_one_thread()
    out = job.out
    packs = check_pack(job.pack, [out], [job.handoff, job.trained], force=job.force)
    signing = signing_key(job.sign)
    with unpacked(output, job.handoff) as [place]:
        checked = job.signers.check(job.handoff, place, output)
        with output.progress(f"writing {out.name}"):
            update = run(
                place,
                job.trained,
                out,
                DeltaFormat(job.delta_dtype, job.max_shard_bytes),
                merge=job.merge,
                force=job.force,
                warn=output.warn,
                trust=checked.trust,
                signing=signing,
            )
    write_packs(output, packs, force=job.force)
    output.result(
        {
            "update": str(out),
            "digest": update.digest,
            "handoff": update.handoff_id,
            "copies": len(update.copies),
            "packed": [str(job.pack)] if job.pack else [],
            "signed_with": signing and signing.key.fingerprint,
            "handoff_signature": signature_content(checked.signer),
        },
        f"update of {len(update.copies)} copies. {checked.words}",
        *after_update(out, job.handoff, {}, job.pack),
        brief=f"update {job.pack or out}",
    )
