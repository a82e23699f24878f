"""`mpu mask`: mask an update so that the server learns only a group's sum (client)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import typer

from mpu_cli.checkpoint.settings import StorageSettings
from mpu_cli.cli.archives import check_pack, unpacked, write_packs
from mpu_cli.cli.config import ConfigCommand
from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import on_update
from mpu_cli.cli.options import Shared, use_one_thread
from mpu_cli.cli.output import Output, facts, share, table
from mpu_cli.cli.signing import Signing, signing_key
from mpu_cli.documentation import page
from mpu_cli.option import REQUIRED, option, same_option

GUIDE = Guide(
    "client",
    "Mask updates so that the server learns only their sum.",
    (
        "# each member makes a key, and sends FILE.pub to the others",
        "mpu mask key --out lab.key",
        "mpu mask key --out clinic.key",
        "mpu mask key --out archive.key",
        "# each member makes the same group file, and masks its update",
        "mpu mask group lab.key.pub clinic.key.pub archive.key.pub --out group.txt",
        "mpu mask update to-server --handoff to-client --group group.txt --key lab.key \\\n"
        "    --out masked",
    ),
)
mask = typer.Typer(name="mask", add_completion=False, rich_markup_mode=None)


@mask.callback()
def together() -> None:
    """Mask updates of several clients so that the server learns only their sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskKeyOptions(Job):
    """What `mpu mask key` was asked to do."""

    out: Path = option(
        REQUIRED,
        "File for the private key; the public key goes to FILE.pub.",
        panel="Output",
        metavar="FILE",
    )
    name: str | None = option(
        None,
        "Name of this member in the group file.",
        shown="the name of the key file",
        metavar="NAME",
    )


@mask.command("key", cls=ConfigCommand)
@command()
def make_key(job: MaskKeyOptions, output: Output) -> None:
    """Make the key of one member: an X25519 key pair.

    Keep the private key on this machine. Send the line in FILE.pub to the other members, but not
    through the server: a server that could exchange the keys could read every update.
    """
    from mpu_cli.client.masks.key import in_base64, new_key, public_path

    name = job.out.stem if job.name is None else job.name
    public = in_base64(new_key(job.out, name))
    line = public_path(job.out)
    output.result(
        {"key": str(job.out), "public": str(line), "name": name, "public_key": public},
        f"{name} {public}",
        "",
        f"keep  {job.out}  (whoever has it can read this member's masked updates)",
        f"send  {line}  to the other members, not through the server",
        brief=f"key {job.out}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskGroupOptions(Job):
    """What `mpu mask group` was asked to do."""

    files: tuple[Path, ...] = option(
        REQUIRED,
        "A group file, or the public lines of all members (FILE.pub).",
        panel="Data",
        flag="FILES",
        metavar="FILE…",
        repeated=True,
    )
    key: Path | None = option(
        None, "Private key of this member: says which member it is.", metavar="FILE"
    )
    out: Path | None = option(None, "Group file to write.", panel="Output", metavar="FILE")
    force: bool = same_option(Shared, "force")


@mask.command("group", cls=ConfigCommand)
@command()
def show_group(job: MaskGroupOptions, output: Output) -> None:
    """Print a group's members and its digest, and write the group file if asked to.

    All members must see the same digest and as many members as there are people. They compare it in
    a way that the server cannot change, for instance on the telephone.
    """
    from mpu_cli.bundle.mask import readable
    from mpu_cli.client.masks.group import read_group, write_group
    from mpu_cli.client.masks.key import in_base64, read_key

    group = read_group(*job.files)
    own = None if job.key is None else group.number_of(read_key(job.key))
    if job.out is not None:
        write_group(group.members, job.out, force=job.force)
    rows = [
        (str(number), member.name, in_base64(member.public), "this key" if number == own else "")
        for number, member in enumerate(group.members, 1)
    ]
    output.result(
        {
            "digest": group.digest,
            "members": [
                {"number": number, "name": member.name, "public_key": in_base64(member.public)}
                for number, member in enumerate(group.members, 1)
            ],
            "member": own,
            "out": None if job.out is None else str(job.out),
        },
        table("member", "name", "public key", "", rows=rows),
        "",
        f"digest  {readable(group.digest)}",
        "(all members must see these eight groups of four digits)",
        brief=readable(group.digest),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskUpdateOptions(Job):
    """What `mpu mask update` was asked to do."""

    update: Path = option(
        REQUIRED,
        "Update to mask: a directory or a tar file.",
        panel="Model",
        flag="UPDATE",
    )
    handoff: Path = option(
        REQUIRED,
        "Handoff that it answers; all members answer the same one.",
        metavar="DIR",
    )
    group: Path = option(REQUIRED, "Group file, equal for all members.", metavar="FILE")
    key: Path = option(REQUIRED, "Private key of this member.", metavar="FILE")
    out: Path = option(REQUIRED, "Directory for the masked update.", panel="Output", metavar="DIR")
    max_shard_bytes: int = same_option(StorageSettings, "max_shard_bytes")
    sign: Path | None = same_option(Signing, "sign")
    pack: Path | None = same_option(Shared, "pack")
    force: bool = same_option(Shared, "force")


@mask.command("update", cls=ConfigCommand)
@command()
def mask_update(job: MaskUpdateOptions, output: Output) -> None:
    """Mask an update: its entries become random integers, and only the group's sum can be read.

    All members answer one and the same handoff, and the server takes all masked updates in one
    call of mpu aggregate. If one member's update is lost, the others cannot be used either. The
    changes add up; rounding moves an entry by at most 2e-9 per member. An adapter is written as the
    full change of the weights.

    A key masks only one update for each handoff and group: from two different ones the server could
    compute their difference. The list of them is the file KEY.used beside the private key.
    """
    from mpu_cli.bundle.mask import readable
    from mpu_cli.client.masks.group import read_group
    from mpu_cli.client.masks.key import read_key
    from mpu_cli.client.masks.mask_update import mask_update as run

    use_one_thread()
    packs = check_pack(job.pack, [job.out], [job.handoff, job.update], force=job.force)
    group, key = read_group(job.group), read_key(job.key)
    number, size, signing = group.number_of(key), len(group.members), signing_key(job.sign)
    with (
        unpacked(output, job.update, job.handoff) as [update, handoff],
        output.progress(f"writing {job.out.name}") as progress,
    ):
        made = run(
            update,
            handoff,
            group,
            key,
            job.out,
            job.max_shard_bytes,
            force=job.force,
            signing=signing,
            progress=progress,
        )
    write_packs(output, packs, force=job.force)
    warnings = [
        *(
            "this key has masked an update of the same handoff for another group,"
            f" {readable(other)}: a server that gets all updates of both learns the difference of"
            " the two sums; send this one only if those who are in one group alone have sent"
            " nothing"
            for other in made.other_groups
        ),
        *(
            ["in a group of two, each member can subtract its own update from the sum"]
            if size == 2
            else []
        ),
    ]
    for text in warnings:
        output.warn(text)
    sent = job.pack or job.out
    output.result(
        {
            "update": str(job.out),
            "digest": made.manifest.digest,
            "handoff": made.manifest.handoff_id,
            "copies": len(made.manifest.copies),
            "group": group.digest,
            "member": number,
            "members": size,
            "largest": made.largest,
            "packed": [str(job.pack)] if job.pack else [],
            "signed_with": signing and signing.key.fingerprint,
            "warnings": warnings,
        },
        facts(
            {
                "member": f"{number} of {size}: {group.members[number - 1].name}",
                "group": readable(group.digest),
                "largest entry": f"{share(made.largest)} of what the range allows",
            }
        ),
        "",
        f"send  {sent}  to the server, and never {job.update}",
        f"keep  {job.key}  until the server has all {size} masked updates",
        f"(what masks hide, and from whom: {page('masks')})",
        *on_update(sent, masked=size),
        brief=f"update {sent}",
    )
