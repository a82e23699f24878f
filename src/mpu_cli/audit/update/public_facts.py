"""What an update says openly: its manifest's fields, sizes, dtypes, and which tensors changed."""

from __future__ import annotations

from mpu_cli.audit.update.finding import Finding
from mpu_cli.audit.update.subject import Subject


def public_facts(subject: Subject) -> Finding:
    """List what anyone reads from the update without an attack."""
    content = subject.update.content()
    fields = sorted(
        {
            *(key for key in content if key != "copies"),
            *(f"copies.{key}" for copy in content["copies"] for key in copy),
        }
    )
    files = {
        f"{copy.name}/{name}": entry.bytes
        for copy in subject.update.copies
        for name, entry in copy.files.items()
    }
    changes = subject.changes
    dtypes = sorted({change.dtype for change in changes.values()})
    layer_of = subject.layout.layer_of()
    layers = sorted({layer_of[name] for name in changes if name in layer_of})
    count = len(subject.layout.layers)
    kind = "LoRA adapter" if subject.payload == "lora" else "full change"
    where = f"layers {layers[0]} – {layers[-1]} of {count}" if layers else "no layer"
    copies = len(subject.update.copies)
    everything = len(layers) == count
    return Finding(
        "public_facts",
        "stated openly",
        f"{copies} {'copies' if copies > 1 else 'copy'}, {kind}, {', '.join(dtypes)},"
        f" {len(changes)} of {len(subject.published.tensors)} tensors changed, {where},"
        f" {sum(files.values())} bytes; fields {', '.join(fields)}",
        "No row count, method, learning rate, file name or time."
        if everything
        else "No row count, learning rate, file name or time; but which layers changed tells what"
        " kind of method you used.",
        numbers={
            "fields": fields,
            "files": files,
            "payload": subject.payload,
            "dtypes": dtypes,
            "changed_tensors": sorted(changes),
            "layers": layers,
        },
    )
