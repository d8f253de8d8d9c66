"""Memory and time of one MTT outer iteration by mode and number of student steps (100 images, depth 3, width 32).

    python benchmarks/inner_loop.py --write
    git clone https://github.com/GeorgeCazenavette/mtt-distillation ../mtt      # commit 50dccea
    python benchmarks/inner_loop.py --public ../mtt --width 32 --write          # inner_loop_public_w32.md

``plain`` is an eager loop as public code has it: autograd through all steps, a network of torch's own modules, and the
default allocator. ``public`` is that loop with MTT's own network and its own module of flat parameters, taken from a
checkout of its code; nothing else of it is run. The others run as ``ddbench distill`` does. One thread; each line is a
process of its own.
"""

from __future__ import annotations

import gc
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

MODES = ("plain", "unroll", "adjoint", "auto", "auto 2G", "adjoint compiled", "truncated")
STEPS = (10, 20, 40)
PUBLIC_MODES = ("public", "plain", "unroll", "adjoint", "auto")
PUBLIC_STEPS = {32: (10, 40), 128: (10,)}
"""Width -> steps: at width 128 forty of public code's would take some 17 GB."""
SKIPPED = {("adjoint compiled", 20)}  # compiling takes most of a minute
ROUNDS = 2


def plain_iteration(net: Any, start: Any, target: Any, images: Any, labels: Any, lr: Any, steps: int) -> float:
    """One outer iteration the straightforward way."""
    import torch
    import torch.nn.functional as F

    images, lr = images.clone().requires_grad_(), lr.clone().requires_grad_()
    theta = start.clone().requires_grad_()
    for _ in range(steps):
        loss = F.cross_entropy(net(theta, images), labels)
        theta = theta - lr * torch.autograd.grad(loss, theta, create_graph=True)[0]
    outer = (theta - target).pow(2).sum() / (start - target).pow(2).sum()
    outer.backward()
    return float(outer.detach())


def public_net(code: Path, width: int) -> Callable[[Any, Any], Any]:
    """MTT's ConvNet for one-channel 28 px images, as a function of flat parameters and images.

    Raises:
        SystemExit: ``code`` is no checkout of MTT's code.
    """
    if not (code / "reparam_module.py").is_file():
        raise SystemExit(f"--public {code}: no reparam_module.py there; clone GeorgeCazenavette/mtt-distillation")
    sys.path.insert(0, str(code))
    networks, reparam = importlib.import_module("networks"), importlib.import_module("reparam_module")
    module = networks.ConvNet(1, 10, width, 3, "relu", "instancenorm", "avgpooling", (28, 28))
    net = reparam.ReparamModule(module)
    return lambda theta, images: net(images, flat_param=theta)


def prepared(mode: str, steps: int, width: int = 32, public: str = "") -> Callable[[], float]:
    """One outer iteration, which returns its loss."""
    import torch

    from ddbench.networks.build import build_student
    from ddbench.runtime import device
    from ddbench.training.flat import FlatNet, flatten_parameters
    from ddbench.training.inner import InnerLoop
    from ddbench.training.problem import InnerProblem, match_term

    torch.set_num_threads(1)
    eager = mode in ("plain", "public")
    if not eager:
        device.prepare(1)
    module = build_student(f"convnet-d3-w{width}-in", channels=1, size=28, classes=10, seed=0)
    net: Any = FlatNet(common.plain_network(width) if eager else module)
    g = torch.Generator().manual_seed(0)  # neither time nor memory depends on what the images show
    images, labels = torch.randn(100, 1, 28, 28, generator=g), torch.arange(100) % 10
    start = flatten_parameters(module)
    if mode == "public":
        net = public_net(Path(public), width)
    target = start + 0.01 * torch.randn(len(start), generator=torch.Generator().manual_seed(0))
    lr = torch.tensor(0.01)
    name, _, how = mode.partition(" ")
    compiler = device.choose_compiler("on", 0, torch.device("cpu"), print) if how == "compiled" else None
    memory = (2 if how == "2G" else 8) * 2**30
    loop = None if eager else InnerLoop(net, name, compiler, memory=memory)

    def iteration() -> float:
        if loop is None:
            return plain_iteration(net, start, target, images, labels, lr, steps)
        terms = [match_term(steps, target, start)]
        problem = InnerProblem(start=start, images=images, labels=labels, lr=lr, batches=[None] * steps, terms=terms)
        return float(loop(problem).loss)

    return iteration


def one(mode: str, steps: int, width: int = 32, public: str = "") -> dict[str, float]:
    """Peak memory above the process's baseline (bytes) and CPU seconds (median of the rounds after the first)."""
    iteration, compiled = prepared(mode, steps, width, public), mode.endswith("compiled")
    if compiled:
        iteration()  # the allocator keeps what this took, so memory is not measured for compiled modes
    gc.collect()
    before = common.rss()
    common.reset_peak()
    seconds = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        loss = iteration()
        seconds.append(time.process_time() - begin)
    memory = float("nan") if compiled else common.peak() - before
    return {"memory": memory, "seconds": statistics.median(seconds[1:]), "loss": loss}


def shares(mode: str, steps: int, width: int) -> None:
    """Print which operations an iteration spends its CPU time in: what no other way of calling them makes faster."""
    from torch.profiler import ProfilerActivity, profile

    iteration = prepared(mode, steps, width)
    iteration()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        iteration()
    taken = {one.key: one.self_cpu_time_total for one in profiled.key_averages()}
    total = sum(taken.values())
    print(f"{mode}, {steps} steps, width {width}: {total / 1e6:.2f} CPU s, profiled")
    print(f"all convolutions: {sum(taken[key] for key in taken if 'conv' in key) / total:.2f}")
    for key in sorted(taken, key=lambda key: -taken[key])[:10]:
        print(f"{key}: {taken[key] / total:.2f}")


def beside_public(code: Path, width: int) -> None:
    """The public loop, the plain one and ours, in turn, twice; the table of one width."""
    public_net(code, width)
    cases = [(mode, steps) for steps in PUBLIC_STEPS[width] for mode in PUBLIC_MODES]
    rounds = [{case: common.measure(__file__, *case, width, code) for case in cases} for _ in range(2)]
    lines = [
        "| mode | steps | memory above baseline, MB | CPU s an iteration | memory / public | time / public | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for mode, steps in cases:
        own, base = ([one[which, steps] for one in rounds] for which in (mode, "public"))
        memory = min(one["memory"] for one in own)
        ratios = [min(one[key] for one in own) / min(one[key] for one in base) for key in ("memory", "seconds")]
        told = " and ".join(f"{one['seconds']:.2f}" for one in own)
        lines.append(
            f"| {mode} | {steps} | {memory / 1e6:.0f} | {told} | {ratios[0]:.3f} | {ratios[1]:.2f} "
            f"| {own[0]['loss']:.5f} |"
        )
    name = str(Path(__file__).with_name(f"inner_loop_public_w{width}.py"))  # only its stem is used
    command = f"python benchmarks/inner_loop.py --public MTT --width {width}"
    common.report(name, f"MTT's public loop and ours, width {width}", lines, command)


def main() -> None:
    """Measure all and print the table with the ratios that the design holds."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--public", type=Path, help="checkout of MTT's code, to be measured beside ours")
    parser.add_argument("--width", type=int, default=32, choices=PUBLIC_STEPS, help="of the networks of --public")
    parser.add_argument("--profile", nargs=2, metavar=("MODE", "STEPS"), help="where its time goes, and nothing else")
    args = parser.parse_args()
    if args.profile:
        shares(args.profile[0], int(args.profile[1]), args.width)
        return
    if args.one:
        mode, steps, *more = args.one
        print(json.dumps(one(mode, int(steps), *(int(more[0]), more[1]) if more else ())))
        return
    if args.public:
        beside_public(args.public.resolve(), args.width)
        return
    cases = [(mode, steps) for mode in MODES for steps in STEPS if (mode, steps) not in SKIPPED]
    found = {case: common.measure(__file__, *case) for case in cases}
    lines = [
        "| mode | steps | memory above baseline, MB | CPU s an iteration | memory / plain | time / plain |",
        "|---|---|---|---|---|---|",
    ]
    for mode, steps in cases:
        own, base = found[mode, steps], found["plain", steps]
        lines.append(
            f"| {mode} | {steps} | {own['memory'] / 1e6:.0f} | {own['seconds']:.2f} | "
            f"{own['memory'] / base['memory']:.3f} | {own['seconds'] / base['seconds']:.2f} |"
        )

    def ratio(a: str, b: str, key: str, steps: tuple[int, int] = (40, 40)) -> str:
        return f"{found[a, steps[0]][key] / found[b, steps[1]][key]:.3f}"

    fast = "adjoint compiled"
    held = [
        ("memory, adjoint / unroll, 40 steps", 0.125, ratio("adjoint", "unroll", "memory")),
        ("time, auto with 8 GiB / unroll, 40 steps", 1.0, ratio("auto", "unroll", "seconds")),
        ("time, auto with 2 GiB / adjoint, 40 steps", 1.0, ratio("auto 2G", "adjoint", "seconds")),
        ("time, adjoint / unroll, 40 steps", 1.4, ratio("adjoint", "unroll", "seconds")),
        ("time, adjoint compiled / unroll, 40 steps", 1.4, ratio(fast, "unroll", "seconds")),
        ("memory of adjoint, 40 / 10 steps", 1.15, ratio("adjoint", "adjoint", "memory", (40, 10))),
        ("time, adjoint compiled / plain, 40 steps", 1.0, ratio(fast, "plain", "seconds")),
        ("memory, adjoint / plain, 40 steps", 0.125, ratio("adjoint", "plain", "memory")),
    ]
    lines += ["", "| held | bound | measured |", "|---|---|---|"]
    lines += [f"| {what} | {bound} | {value} |" for what, bound, value in held]
    common.report(__file__, "The inner loop: memory and time", lines, "python benchmarks/inner_loop.py")


if __name__ == "__main__":
    sys.exit(main())
