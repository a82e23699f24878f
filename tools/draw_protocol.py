"""Draw docs/images/protocol.svg: the two parties, the three steps, and the two directories.

Run by `make docs/images`.
"""

from __future__ import annotations

import sys

from svg import Box, arrow, document, text

SERVER, MIDDLE, CLIENT = 150, 430, 710
"""Centres of the three columns."""


def lane(x: float, colour: str, name: str, role: str) -> str:
    """The background of one party's side."""
    box = Box(x, 210, 270, 400)
    return "\n".join(
        [
            box.draw(colour),
            text(x, 36, name, "title"),
            text(x, 55, role),
        ]
    )


def step(x: float, y: float, command: str, *lines: str) -> tuple[Box, str]:
    """A command of one party, with what it does."""
    box = Box(x, y, 236, 74)
    return box, box.draw("page", ("mono", command), *(("words", line) for line in lines))


def stays(x: float, y: float, *lines: str) -> tuple[Box, str]:
    """What never leaves a party."""
    box = Box(x, y, 236, 26 + 17 * (len(lines) - 1))
    return box, box.draw("secret", *(("words", line) for line in lines))


def parcel(y: float, name: str, *lines: str) -> tuple[Box, str]:
    """A directory that travels."""
    box = Box(MIDDLE, y, 200, 74)
    return box, box.draw("shared", ("mono", name), *(("words", line) for line in lines))


def draw() -> str:
    """The whole picture."""
    model, draw_model = stays(SERVER, 96, "the exact model and all secrets stay")
    perturb, draw_perturb = step(
        SERVER,
        170,
        "1  mpu perturb",
        "T_k(θ + noise_k), k = 1 … m",
        "noise cancels over all copies",
    )
    aggregate, draw_aggregate = step(
        SERVER, 330, "3  mpu aggregate", "undo T_k, weighted sum of", "the changes, add it to θ"
    )
    rows, draw_rows = stays(CLIENT, 96, "the rows to forget and to keep stay")
    unlearn, draw_unlearn = step(
        CLIENT, 250, "2  mpu unlearn", "one recipe on every copy,", "keep only the change of each"
    )
    there, draw_there = parcel(
        170, "to-client/", "m perturbed copies", "(Hugging Face directories)"
    )
    back, draw_back = parcel(330, "to-server/", "m changes of weights", "(safetensors)")
    half = 118
    arrows = [
        arrow((model.x, model.bottom), (perturb.x, perturb.top)),
        arrow((perturb.x + half, perturb.y), (there.x - 100, there.y)),
        arrow((there.x + 100, there.y), (unlearn.x - half, unlearn.y - 16)),
        arrow((rows.x, rows.bottom), (unlearn.x, unlearn.top)),
        arrow((unlearn.x - half, unlearn.y + 16), (back.x + 100, back.y)),
        arrow((back.x - 100, back.y), (aggregate.x + half, aggregate.y)),
    ]
    parts = [
        lane(SERVER, "server", "Server", "owns the model"),
        lane(CLIENT, "client", "Client", "owns the data to forget"),
        draw_model,
        draw_perturb,
        draw_aggregate,
        draw_rows,
        draw_unlearn,
        draw_there,
        draw_back,
        *arrows,
        text(MIDDLE, 36, "what travels", "title"),
        text(MIDDLE, 55, "by network, or by hand"),
        text(SERVER, 392, "next round: start from the new model"),
    ]
    return document(860, 420, "MPU: perturb, unlearn, aggregate", parts)


if __name__ == "__main__":
    sys.stdout.write(draw())
