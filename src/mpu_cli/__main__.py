"""The entry point of `python -m mpu_cli` and of the console script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `mpu`; Ctrl-C during its imports ends it as at any other time."""
    try:
        from mpu_cli.cli.streams import reserve_numbers

        reserve_numbers()
        from mpu_cli.cli.app import run
        from mpu_cli.cli.light import ends_after_one_command

        ends_after_one_command()
    except KeyboardInterrupt:
        print("mpu: error: interrupted; nothing was written", file=sys.stderr)
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
