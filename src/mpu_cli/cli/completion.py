"""What a shell completes the values of options with; `mpu --install-completion` sets it up."""

from __future__ import annotations


def methods(incomplete: str) -> list[str]:
    """Names of methods, in upper or lower case."""
    from mpu_cli.client.methods import names

    return _beginning(names(), incomplete)


def optimizers(incomplete: str) -> list[str]:
    """Names of optimizers, likewise."""
    from mpu_cli.training.optimizers import names

    return _beginning(names(), incomplete)


def _beginning(names: list[str], incomplete: str) -> list[str]:
    """In lower case where that is how the word was begun: shells compare letter by letter."""
    found = [name for name in names if name.lower().startswith(incomplete.lower())]
    return [name if name.startswith(incomplete) else name.lower() for name in found]
