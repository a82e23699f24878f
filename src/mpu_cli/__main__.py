"""`python -m mpu_cli`."""

from mpu_cli.cli.app import main

main()
