"""Two processes that evaluate one synset into one file at once, with other students, many times: is a run lost?

python benchmarks/writers.py [TIMES]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

STUDENTS = ("convnet-d1-w4-in", "mlp-d1-w4")
PLAIN = ["--workers", "1", "--threads", "1", "--compile", "off", "--quiet"]
LOOP = """import json, sys
from ddbench.cli.main import run
for command in json.loads(sys.argv[1]):
    sys.stdin.readline()
    run(command)
    print("done", flush=True)
"""


def evaluate(run: Path, out: Path, students: str) -> list[str]:
    """The command."""
    return ["evaluate", str(run), "--students", students, "--seeds", "3", "--epochs", "2", "--out", str(out), *PLAIN]


def main(times: int) -> None:
    """Print how often the file of two processes is that of one process with all students, to the byte."""
    from ddbench.cli.main import run as ddbench

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        flags = ["--dataset", "digits", "--ipc", "1", "--student", STUDENTS[0], "--out", str(root / "run")]
        ddbench(["distill", "--method", "random", *flags, "--threads", "1", "--quiet"])
        ddbench(evaluate(root / "run", root / "whole" / "score.json", ",".join(STUDENTS)))
        whole = (root / "whole" / "score.json").read_bytes()
        outs = [root / str(number) / "score.json" for number in range(times)]
        pair = [
            subprocess.Popen(
                [sys.executable, "-c", LOOP, json.dumps([evaluate(root / "run", out, student) for out in outs])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for student in STUDENTS
        ]
        same = lost = left = 0
        for out in outs:
            for process in pair:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            for process in pair:
                assert process.stdout is not None
                while (line := process.stdout.readline()) != "done\n":
                    if not line:
                        raise SystemExit("a command failed")
            same += out.read_bytes() == whole
            lost += len(json.loads(whole)["runs"]) - len(json.loads(out.read_text())["runs"])
            left += len(list(out.parent.iterdir())) - 2
        for process in pair:
            process.communicate()
    print(f"{times} times: {same} equal to one process's to the byte, {lost} runs lost, {left} files left over")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
