"""One draw of copies on its way out.

decided, proved, written, and described in records that are not saved yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mpu_cli.architectures.fingerprint import fingerprint
from mpu_cli.architectures.layout import LayerLayout, ModelLayout
from mpu_cli.bundle.manifest import MANIFEST, HandoffManifest, PublishedCopy, encode, listed
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.checkpoint.writer import write_new
from mpu_cli.server.denoising import weights
from mpu_cli.server.lineage.exposure import WHOLE, Exposure, exposure, least, prior
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.records import CopyRecord, HandoffRecord, frozen_of, now
from mpu_cli.server.publishing.copy_writer import Publication, write_copies
from mpu_cli.server.publishing.function_check import (
    LayerCheck,
    check_layer,
    layers_to_check,
    require_passed,
)
from mpu_cli.server.publishing.noise_statistics import RealisedNoise
from mpu_cli.server.publishing.plan import Plan, make_plan
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.server.publishing.weight_statistics import WeightStatistics
from mpu_cli.server.secrets.secret import SystemEntropy
from mpu_cli.server.transforms import load
from mpu_cli.server.transforms.draw import Reparameterization, draw_layer, draw_model

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much is done, and out of how much."""


class Handout:
    """One draw of copies: everything between the decisions and the renames."""

    def __init__(
        self,
        source: Checkpoint,
        layout: ModelLayout,
        groups: Mapping[str, tuple[str, ...]],
        transforms: tuple[str, ...],
        settings: PerturbSettings,
        measured: WeightStatistics,
        lineage: Lineage | None,
        entropy: SystemEntropy,
    ) -> None:
        self.source, self.layout, self.groups, self.transforms = source, layout, groups, transforms
        self.settings, self.measured, self.lineage = settings, measured, lineage
        self.new_id = entropy.new_id
        self.origin = lineage.secret.origin if lineage else entropy.origin
        self.master = lineage.secret.master if lineage else entropy.master()
        self.fingerprint = fingerprint(layout)
        self.plan: Plan = make_plan(
            settings,
            measured,
            lineage.secret if lineage else None,
            self.master,
            entropy.new_id(),
            source.float_dtypes,
            exact=all(load(name).EXACT for name in transforms),
        )
        self.prior = least([self.plan.prior, prior(lineage.handoffs.values() if lineage else ())])

    def drawn(self, layer: LayerLayout) -> list[Reparameterization]:
        """T_k of one layer, by position."""
        return [
            draw_layer(self.transforms, layer, self.master, self.plan.draw.id, position)
            for position in range(self.plan.draw.size)
        ]

    def check(self, progress: Progress) -> tuple[LayerCheck, ...]:
        """Prove function preservation on the actual weights before anything is written."""
        results: list[LayerCheck] = []
        layers = layers_to_check(self.layout, self.settings.check) if self.transforms else []
        for done, layer in enumerate(layers):
            progress("check", done, len(layers))
            results += check_layer(self.source, self.layout, layer, self.drawn(layer))
            require_passed(results)
        return tuple(results)

    def publish(self, staging: Path, progress: Progress) -> list[HandoffRecord]:
        """Write all copies and manifests below `staging`; return the records, not yet saved."""
        size = self.plan.draw.size
        folders = [
            (
                staging / f"holder-{k + 1}" / "copy-1"
                if self.settings.split
                else staging / f"copy-{k + 1}"
            )
            for k in range(size)
        ]
        for folder in folders:
            folder.mkdir(parents=True)
            for made in (folder, folder.parent) if self.settings.split else (folder,):
                made.chmod(0o755)  # whatever the umask: the client's user must be able to read it
        reparameterizations = [
            draw_model(
                self.transforms, self.layout.layers, self.master, self.plan.draw.id, position
            )
            for position in range(size)
        ]
        publication = Publication(
            self.source,
            self.layout,
            self.groups,
            self.plan.draw,
            reparameterizations,
            self.plan.dtype,
            self.settings.max_shard_bytes,
        )
        coefficients = self.plan.draw.coefficients
        realised = RealisedNoise(
            weights(self.settings.denoising, coefficients),
            [abs(value) for value in coefficients],
            self.measured.grid,
        )
        done, total = 0, self.source.elements

        def on_tensor(elements: int) -> None:
            nonlocal done
            done += elements
            progress("write", done, total)

        files = write_copies(publication, folders, realised, on_tensor)
        copies = [
            PublishedCopy(folder.name, listed(written))
            for folder, written in zip(folders, files, strict=True)
        ]
        handed_out = (
            [[position] for position in range(size)] if self.settings.split else [list(range(size))]
        )
        return [
            self._handoff(
                folders[positions[0]].parent,
                [copies[k] for k in positions],
                positions,
                realised.report(),
                number,
            )
            for number, positions in enumerate(handed_out)
        ]

    def _handoff(
        self,
        folder: Path,
        copies: list[PublishedCopy],
        positions: list[int],
        realised: Mapping[str, float],
        number: int,
    ) -> HandoffRecord:
        manifest = HandoffManifest(
            self.new_id(),
            self.plan.dtype,
            frozen_of(self.layout, self.settings.train_embeddings),
            tuple(copies),
        )
        write_new(folder / MANIFEST, encode(manifest))
        settings, draw = self.settings, self.plan.draw
        holder = settings.client or "client"
        return HandoffRecord(
            id=manifest.id,
            digest=manifest.digest,
            sequence=(self.lineage.next_sequence if self.lineage else 1) + number,
            state="prepared",
            target="",
            holder=f"{holder}-{number + 1}" if settings.split else holder,
            model=self.measured.digest,
            draw=draw.id,
            size=draw.size,
            copies=tuple(
                CopyRecord(copy.name, copy.digest, position, draw.coefficients[position])
                for copy, position in zip(copies, positions, strict=True)
            ),
            denoising=settings.denoising,
            kappa=settings.kappa,
            offset=self.plan.offset_everywhere,
            relative_to=self.plan.relative_to,
            sigma=draw.sigma,
            transforms=self.transforms,
            layout=self.fingerprint,
            scope=settings.scope,
            dtype=self.plan.dtype,
            source_dtype=self.source.dtype,
            shard_bytes=settings.max_shard_bytes,
            realised=realised,
            exposure=self.exposure(positions).content(),
            train_embeddings=settings.train_embeddings,
            date=now(),
            prior_shares={} if self.prior == WHOLE else self.prior.shares,
            prior_sizes={} if self.prior == WHOLE else self.prior.sizes,
        )

    def exposure(self, positions: Sequence[int]) -> Exposure:
        """The exposure of the copies at these positions.

        `all_copies` is always that of the whole draw.
        """
        settings, draw, offset = self.settings, self.plan.draw, self.plan.offset_everywhere
        whole = exposure(settings.denoising, settings.kappa, draw.coefficients, offset, self.prior)
        own = exposure(
            settings.denoising,
            settings.kappa,
            [draw.coefficients[k] for k in positions],
            offset,
            self.prior,
        )
        return replace(whole, one_copy=own.one_copy)
