"""One training step of the evaluator's network in several forms: what pays on a CPU, and what does not.

Width 128, 28 px, forward, loss, backward and SGD on one batch, one thread; CPU seconds, the median of the steps after
those that warm up or compile. Every form is a process of its own.

    taskset -c 0 python benchmarks/step_variants.py --forms plain ours --batches 100 --write
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import common
from common import plain_network
from plain_loops import WIDTH

FORMS = {
    "plain": "torch's modules, eager, the default allocator",
    "allocator": "the same, freed memory kept",
    "ours": "ddbench's network, eager",
    "channels last": "ddbench's network, eager, channels last",
    "tail compiled": "convolutions eager; norm, ReLU and pool one compiled function",
    "compiled": "ddbench's network, torch.compile",
    "max-autotune": "the same, mode max-autotune-no-cudagraphs",
    "bfloat16": "ddbench's network, eager, autocast",
    "compiled bfloat16": "compiled, autocast",
}
STEPS, WARM = 4, 2
BOUND = {"float32": 0.42, "bfloat16": 0.33}


def one(form: str, batch: int) -> dict[str, float]:
    """CPU seconds of a step, and of the first step, which compiles."""
    import torch
    import torch.nn.functional as F

    from ddbench.networks.build import build_student
    from ddbench.networks.pooling import average_pool
    from ddbench.runtime import device
    from ddbench.training.loops import autocast
    from ddbench.training.sgd import SGD

    torch.set_num_threads(1)
    if form != "plain":
        device.prepare(1)
    student = build_student(f"convnet-d3-w{WIDTH}-in", channels=1, size=28, classes=10, seed=0)
    net: Any = plain_network(WIDTH) if form in ("plain", "allocator") else student
    x, y = torch.randn(batch, 1, 28, 28), torch.arange(batch) % 10
    if form == "channels last":
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    call = net
    if form == "tail compiled":
        tails = [
            torch.compile(lambda x, norm=stage.norm: average_pool(F.relu(norm(x))), dynamic=False)
            for stage in student.stages
        ]

        def call(x: Any) -> Any:
            for stage, tail in zip(student.stages, tails, strict=True):
                x = tail(stage.conv(x))
            return student.classifier(x.flatten(1))

    precision = "bfloat16" if form.endswith("bfloat16") else "float32"

    def objective(x: Any, y: Any) -> Any:
        with autocast(precision, x.device):
            logits = call(x)
        return F.cross_entropy(logits.float(), y)

    if form.startswith("compiled"):
        objective = torch.compile(objective, dynamic=False)
    elif form == "max-autotune":
        objective = torch.compile(objective, dynamic=False, mode="max-autotune-no-cudagraphs")
    stepper = SGD(net.parameters(), 0.01, 0.9, 5e-4)
    seconds = []
    for _ in range(WARM + STEPS):
        begin = time.process_time()
        stepper.zero_grad()
        objective(x, y).backward()
        stepper.step()
        seconds.append(time.process_time() - begin)
    return {"seconds": statistics.median(seconds[WARM:]), "first": seconds[0]}


def main() -> None:
    """Measure and print."""
    parser = common.parser(str(__doc__))
    parser.add_argument("--forms", nargs="*", default=list(FORMS), choices=FORMS)
    parser.add_argument("--batches", nargs="*", type=int, default=[100, 256])
    parser.add_argument("--note", default="nothing else ran", help="what else the machine did")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], int(args.one[1]))))
        return
    lines = ["| batch | form | what | CPU s a step | / plain | first step |", "|---|---|---|---|---|---|"]
    for batch in args.batches:
        base = 0.0
        for form in args.forms:
            found = common.measure(__file__, form, batch)
            base = base or found["seconds"]
            ratio = f"{found['seconds']:.3f} | {found['seconds'] / base:.2f} | {found['first']:.1f}"
            lines.append(f"| {batch} | {form} | {FORMS[form]} | {ratio} |")
            print(lines[-1], flush=True)
    lines += ["", f"Bounds: {BOUND['float32']}, with bfloat16 {BOUND['bfloat16']}. Load: {args.note}."]
    common.report(__file__, "A training step in several forms", lines, " ".join(["python", *sys.argv]))


if __name__ == "__main__":
    sys.exit(main())
