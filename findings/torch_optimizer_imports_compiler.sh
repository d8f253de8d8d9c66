#!/usr/bin/env bash
# torch: making any optimiser imports torch's compiler, though nothing is compiled.
#
# torch 2.15.0. torch.optim.SGD([weight], lr=0.1) takes about as many CPU seconds as `import torch`: some methods of
# torch.optim.Optimizer are wrapped so that the compiler leaves them alone, and the wrapper imports it to say so, over
# 900 modules, among them torch._dynamo, torch._inductor and sympy. Every process of a benchmark pays that. The
# wrapped methods are kept in __wrapped__; a subclass that takes those and steps under no_grad comes to the same bits
# (ddbench/runtime/light.py).
#
# Seen (seconds vary):
#   torch 2.15.0
#   import torch: 2.2 CPU s, compiler imported: False
#   torch.optim.SGD: 1.8 CPU s, compiler imported: True, more than 500 modules: True
#   without the wrappers: compiler imported: False, the same bits: True
#
# Run by hand: bash findings/torch_optimizer_imports_compiler.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" torch==2.15.0 numpy==2.4.6
cat >"$folder/look.py" <<'PYTHON'
import inspect
import sys
import time

begin = time.process_time()
import torch

seconds = time.process_time() - begin
PARTS = ("torch._dynamo", "torch._inductor", "sympy")


def compiler():
    return all(part in sys.modules for part in PARTS)


def trained(kind):
    weight = torch.arange(1.0, 6.0).requires_grad_()
    stepper = kind([weight], lr=0.1, momentum=0.9)
    for _ in range(3):
        weight.grad = weight.detach().sin()
        stepper.step()
    return weight.detach()


class Light(torch.optim.SGD):
    add_param_group = inspect.unwrap(torch.optim.SGD.add_param_group)

    def step(self):
        with torch.no_grad():
            inspect.unwrap(torch.optim.SGD.step)(self)


before = compiler()
light = trained(Light)
without = compiler()
count, begin = len(sys.modules), time.process_time()
torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
after, more = compiler(), len(sys.modules) - count > 500
took = time.process_time() - begin
same = torch.equal(light, trained(torch.optim.SGD))
print("torch", torch.__version__.partition("+")[0])
print(f"import torch: {seconds:.1f} CPU s, compiler imported: {before}")
print(f"torch.optim.SGD: {took:.1f} CPU s, compiler imported: {after}, more than 500 modules: {more}")
print(f"without the wrappers: compiler imported: {without}, the same bits: {same}")
sys.exit(0 if (before, after, more, without, same) == (False, True, True, False, True) else 1)
PYTHON
PYTHONPATH="$folder" python3 "$folder/look.py"
