"""Look for known vulnerabilities in the pinned dependencies, with pip-audit.

Exit code 0: a list of vulnerabilities was read, and names none of them. 1: it names some. 2: there
is no such list here (no network, or an index without one), so nothing is known.

    python tools/audit_dependencies.py [PIP_AUDIT]
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINS = Path(__file__).parents[1] / "requirements"
FILES = ("dev.txt", "torch-cuda.txt")


def verdict(report: dict[str, Any]) -> tuple[int, str]:
    """The exit code and the sentence for a report of pip-audit."""
    packages = report["dependencies"]
    known = [package for package in packages if "skip_reason" not in package]
    found = [package for package in known if package.get("vulns")]
    skipped = len(packages) - len(known)
    if not known:
        return 2, f"no list of vulnerabilities can be had here: {skipped} packages are not audited"
    told = f"{len(known)} packages audited, {skipped} not"
    if not found:
        return 0, f"{told}: no known vulnerability"
    names = ", ".join(
        f"{package['name']} {package['version']} ({', '.join(v['id'] for v in package['vulns'])})"
        for package in found
    )
    return 1, f"{told}: {names}"


def main(program: str) -> int:
    """Run pip-audit, print the verdict and return its exit code."""
    command = [program, "--progress-spinner", "off", "--format", "json", "--timeout", "20"]
    command += ["--disable-pip", "--require-hashes"]
    for name in FILES:
        command += ["-r", str(PINS / name)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        code, told = verdict(json.loads(done.stdout))
    except (OSError, ValueError) as error:
        lines = [] if isinstance(error, OSError) else done.stderr.strip().splitlines()
        code, told = 2, f"no list of vulnerabilities can be had here: {(lines or [str(error)])[-1]}"
    print(told)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "pip-audit"))
