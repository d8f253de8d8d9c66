"""CPU seconds of ``ddbench --help`` as a whole process: median of 15."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

import common


def main() -> None:
    """Measure and print."""
    common.parser(str(__doc__)).parse_args()
    found = []
    for _ in range(15):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "ddbench", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    lines = [f"{statistics.median(found):.3f} CPU s ({min(found):.3f} to {max(found):.3f}); bound 0.3."]
    common.report(__file__, "ddbench --help", lines, "python benchmarks/help_time.py")


if __name__ == "__main__":
    sys.exit(main())
