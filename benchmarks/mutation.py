"""Do the tests notice when a line of the core is wrong? A sample of mutants, each against the tests of its module.

A mutant (made by cosmic-ray) is one place in the body of a function that is changed in one way: another operator or
comparison, a number one up or down, a condition turned round, ``and`` for ``or``, a loop that does nothing. The sample
has the same number of places in every folder, drawn by the seed. All is done in a copy of the last commit;
``--tests REV`` takes the tests of another commit, ``--only FILE`` the mutants that survived by an earlier log.

Needs ``cosmic-ray`` (not in any extra of the package, never run by CI)::

    python benchmarks/mutation.py --log before.jsonl --tests REV
    python benchmarks/mutation.py --log after.jsonl --only before.jsonl
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

TESTS: dict[str, str] = {
    "training/characteristic": "ncfm",
    "training/curvature": "curvature",
    "training/distribution": "distribution",
    "training/flat": "flat loops external_networks store",
    "training/gradient_matching": "gradient_matching",
    "training/higher_backend": "oracle/inner",
    "training/inner": "oracle/inner masking trajectory_methods",
    "training/loops": "loops many plan experts_at_once sharpness",
    "training/kernel": "kernel",
    "training/linearised": "kernel",
    "training/losses": "loops calibration_baselines plan oracle/inner",
    "training/many": "many",
    "training/optimizers": "loops ncfm plan",
    "training/outer": "kernel dd",
    "training/plateau": "ncfm",
    "training/problem": "oracle/inner masking ast",
    "training/realism": "rded",
    "training/sgd": "flat loops",
    "training/solve": "kernel",
    "training/statistics_matching": "recovery",
    "training/trajectory_losses": "datm ast",
    "training/twice": "twice",
    "evaluation/ddranking/definitions": "scores",
    "evaluation/ddranking/file": "scores cli/scores_verb",
    "evaluation/ddranking/trainings": "scores cli/scores_verb shards",
    "evaluation/evaluator": "evaluator measurements",
    "evaluation/kept": "evaluator measurements",
    "evaluation/parts": "writers hostile_files evaluator",
    "evaluation/probing": "measurements",
    "evaluation/record": "evaluator measurements",
    "evaluation/start": "label_regimes cli/names evaluator cli/relabel",
    "evaluation/tasks": "evaluator measurements",
    "evaluation/weights": "keep_weights",
    "evaluation/work": "evaluator measurements",
    "protocols/labels": "labels",
    "protocols/plan": "plan storage evaluator decode labels pdd",
    "protocols/protocol": "protocols plan kernel",
    "protocols/relabel": "labels cli/relabel",
    "protocols/targets": "plan labels",
    "protocols/replay": "dd",
    "protocols/storage": "storage label_regimes",
    "protocols/teacher": "which_teacher",
    "protocols/training": "plan evaluator decode pdd labels",
    "methods/ast": "ast",
    "methods/base": "needs registry contract/methods",
    "methods/cudd": "recovery",
    "methods/d3hr": "d3hr",
    "methods/datadam": "distribution",
    "methods/datm": "datm",
    "methods/dd": "dd",
    "methods/dream": "idc representative",
    "methods/dsa": "gradient_matching",
    "methods/expertlabels": "expertlabels",
    "methods/families/coreset": "coreset",
    "methods/families/distribution": "distribution",
    "methods/families/generation": "d3hr",
    "methods/families/gradient_matching": "gradient_matching",
    "methods/families/kernel": "kernel",
    "methods/families/multi_formation": "idc",
    "methods/families/recovery": "recovery",
    "methods/families/trajectory": "trajectory_methods trajectory_experts datm pdd",
    "methods/families/graphs": "graphs_mirage contract/modalities",
    "methods/frepo": "kernel",
    "methods/ftd": "trajectory_methods",
    "methods/guard": "recovery",
    "methods/herding": "coreset",
    "methods/kcenter": "coreset",
    "methods/kmeans": "coreset",
    "methods/mgd3": "d3hr",
    "methods/mirage": "graphs_mirage",
    "methods/ncfm": "ncfm",
    "methods/needs/__init__": "needs",
    "methods/needs/diffusion": "needs d3hr",
    "methods/needs/experts": "needs trajectory_experts upstream",
    "methods/needs/teacher": "needs which_teacher upstream teacher rded",
    "methods/parts/batches": "representative gradient_matching",
    "methods/parts/canvas": "canvas trajectory_methods",
    "methods/parts/features": "representative coreset contract/methods",
    "methods/parts/frequencies": "ncfm",
    "methods/parts/masking": "masking",
    "methods/parts/pool": "kernel",
    "methods/parts/rate": "canvas trajectory_methods",
    "methods/parts/sampling": "representative",
    "methods/parts/segments": "trajectory_methods datm pdd",
    "methods/pdd": "pdd",
    "methods/rcig": "kernel",
    "methods/rded": "rded",
    "methods/tesla": "trajectory_methods",
    "methods/unguided": "d3hr",
}
"""Module -> test files, of tests/unit where no other folder is named; the quickest first."""

OPERATORS = {"Add": "Sub", "Sub": "Add", "Mul": "Div", "Div": "Mul", "FloorDiv": "Mul", "Mod": "FloorDiv", "Pow": "Mul"}
COMPARISONS = ("Eq", "NotEq", "Lt", "LtE", "Gt", "GtE")
OTHERS = (
    "NumberReplacer", "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd",
    "ZeroIterationForLoop", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer",
    "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_USub_UAdd", "ReplaceComparisonOperator_Is_IsNot",
    "ReplaceComparisonOperator_IsNot_Is", "ReplaceComparisonOperator_In_NotIn", "ReplaceComparisonOperator_NotIn_In",
)  # fmt: skip
WANTED = {
    *OTHERS,
    *(f"ReplaceBinaryOperator_{old}_{new}" for old, new in OPERATORS.items()),
    *(f"ReplaceComparisonOperator_{old}_{new}" for old in COMPARISONS for new in COMPARISONS if old != new),
}


Place = tuple[int, int]


def spans(nodes: Iterable[ast.AST | None]) -> list[tuple[Place, Place]]:
    """Where nodes begin and end, as (line, column)."""
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
        for node in nodes
        if isinstance(node, (ast.stmt, ast.expr))
    ]


def bodies(tree: ast.Module) -> list[tuple[Place, Place]]:
    """The statements of all functions."""
    return spans(part for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for part in node.body)


def annotations(tree: ast.Module) -> list[tuple[Place, Place]]:
    """What is never run: its ``|`` is no operator."""
    return spans(getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns"))


def mutants(module: str) -> Iterator[dict[str, Any]]:
    """Every mutant of a module."""
    import parso
    from cosmic_ray.ast import ast_nodes
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ROOT / "ddbench" / f"{module}.py").read_text()
    tree = ast.parse(source)
    code, skipped, nodes = bodies(tree), annotations(tree), list(ast_nodes(parso.parse(source)))
    for name in operator_names():
        if name.partition("/")[2] in WANTED:
            operator = get_operator(name)()
            places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
            for occurrence, place in enumerate(places):
                if within(place, code) and not within(place, skipped):
                    yield {"module": module, "operator": name, "occurrence": occurrence, "place": list(place)}


def within(place: Place, found: list[tuple[Place, Place]]) -> bool:
    """Whether a place lies in one of the spans."""
    return any(start <= place < end for start, end in found)


def sample(count: int, seed: int) -> list[dict[str, Any]]:
    """``count`` mutants of different places, as many of each folder."""
    draw = random.Random(seed)
    chosen = []
    folders = ("training", "evaluation", "protocols", "methods")
    for number, folder in enumerate(folders):
        places: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for module in TESTS:
            if module.startswith(f"{folder}/"):
                for mutant in mutants(module):
                    places.setdefault((module, *mutant["place"]), []).append(mutant)
        share = count // len(folders) + (number < count % len(folders))
        chosen += [draw.choice(places[place]) for place in draw.sample(sorted(places), min(share, len(places)))]
    draw.shuffle(chosen)  # those that were tried, where not all are, are a sample too
    return chosen


def test_files(module: str) -> list[str]:
    """Paths of a module's tests."""
    named = [name if "/" in name else f"unit/{name}" for name in TESTS[module].split()]
    return [f"tests/{folder}/test_{name}.py" for folder, _, name in (each.partition("/") for each in named)]


def run_tests(copy: Path, tests: list[str], seconds: float, *flags: str) -> tuple[str, list[str]]:
    """``killed``, ``survived`` or ``timeout``, and the tests that failed; forked, which spares the start of torch.

    Args:
        seconds: of CPU time, so that a busy machine kills no mutant; ten times as much by the clock.
    """
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
            os.chdir(copy)
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            sys.path.insert(0, str(copy))
            os.environ["PYTHONPATH"] = str(copy)
            import pytest

            code = 3
            with contextlib.suppress(BaseException):
                code = int(pytest.main(["-q", "--tb=no", "--no-header", "-p", "no:cacheprovider", *flags, *tests]))
            sys.stdout.flush()
            os._exit(code)
        end = time.monotonic() + 10 * seconds
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.05)
        else:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "timeout", []
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # workers that a failed test left
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
            return "timeout", []
        said.seek(0)
        lines = [line for line in said.read().splitlines() if line.startswith(("FAILED ", "ERROR "))]
        failed = [line.partition(" ")[2].partition(" - ")[0] for line in lines]
        return ("survived" if status == 0 else "killed"), failed


def parses(source: str) -> bool:
    """Whether it is Python: the library takes the stars of ``{**a}`` for an operator."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def copied(folder: Path, revision: str) -> None:
    """Put the last commit into a folder, with the tests of another one."""
    for rev, parts in (("HEAD", ["."]), (revision, ["tests"])):
        if rev != "HEAD" or parts == ["."]:
            data = subprocess.run(["git", "-C", ROOT, "archive", rev, *parts], check=True, capture_output=True).stdout
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                archive.extractall(folder, filter="data")


def main() -> None:
    """Draw, try and count."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sample", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", default="HEAD", help="the commit whose tests are used")
    parser.add_argument("--only", type=Path, help="only those that survived by this log")
    parser.add_argument("--log", type=Path, required=True, help="one JSON line a mutant; goes on where it ended")
    parser.add_argument("--seconds", type=float, default=300, help="CPU time for the tests of one mutant")
    args = parser.parse_args()

    import torch
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    key = ("module", "operator", "occurrence")
    drawn = sample(args.sample, args.seed)
    if args.only:
        kept = [json.loads(line) for line in args.only.read_text().splitlines()]
        survived = {tuple(each[name] for name in key) for each in kept if each["outcome"] == "survived"}
        drawn = [each for each in drawn if tuple(each[name] for name in key) in survived]
    known = [json.loads(line) for line in args.log.read_text().splitlines()] if args.log.exists() else []
    tried = {tuple(each[name] for name in key) for each in known}
    with tempfile.TemporaryDirectory() as scratch, args.log.open("a") as log:
        copy = Path(scratch)
        copied(copy, args.tests)
        for mutant in drawn:
            if tuple(mutant[name] for name in key) in tried:
                continue
            path = copy / "ddbench" / f"{mutant['module']}.py"
            source = path.read_text()
            changed = mutate_code(source, get_operator(mutant["operator"])(), mutant["occurrence"])
            path.write_text(changed)
            outcome, failed = "invalid", []
            if parses(changed):
                outcome, failed = run_tests(copy, test_files(mutant["module"]), args.seconds, "-x")
            path.write_text(source)
            pairs = zip(source.splitlines(), changed.splitlines(), strict=True)
            was, now = next((a.strip(), b.strip()) for a, b in pairs if a != b)
            record = {**mutant, "outcome": outcome, "failed": failed[:1], "was": was, "now": now}
            known.append(record)
            log.write(json.dumps(record) + "\n")
            log.flush()
            print(f"{outcome:9} {mutant['module']}:{mutant['place'][0]}  {now}  {failed[:1]}", flush=True)
        # a test that fails without a mutant says nothing
        deadly = sorted({test for each in known for test in each["failed"] if "::" in test})
        _, broken = run_tests(copy, deadly, 10 * args.seconds) if deadly else ("", [])
        print("\n".join(f"fails always: {test}" for test in broken))
    for folder in ("training", "evaluation", "protocols", "methods", ""):
        mine = [each for each in known if each["module"].startswith(folder) and not set(each["failed"]) & set(broken)]
        outcomes = [each["outcome"] for each in mine if each["outcome"] != "invalid"]
        print(f"{folder or 'all':12} {len(outcomes)} mutants, {len(outcomes) - outcomes.count('survived')} killed")


if __name__ == "__main__":
    main()
