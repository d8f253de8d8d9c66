"""The commands that ``hostile.py`` gives: what cannot be done, a line each."""

from __future__ import annotations

import shlex

from hostile_targets import GRAPH_MADE, MADE

FLAGS = r"""
evaluate
evaluate ''
evaluate {zero}
evaluate {long}
evaluate /dev/zero
evaluate run --seeds 0
evaluate run --seeds -1
evaluate run --seeds 1e3
evaluate run --seeds {nines}
evaluate run --seeds {three}
evaluate run --epochs 0
evaluate run --lr nan
evaluate run --lr -inf
evaluate run --students ''
evaluate run --students ,
evaluate run --students convnet-d99999999-w4-in
evaluate run --students mlp-d3-w{nines}
evaluate run --students mlp-d2-w9999999999
evaluate run --students vit-d2-w31
evaluate run --protocol ../../etc/passwd
evaluate run --protocol {escape}
evaluate run --protocol run
evaluate run --out /dev/full
evaluate run --out run
evaluate run --out /proc/x
evaluate run --workers -1
evaluate run --threads 0
evaluate run --threads 10000000
evaluate run --shard 2/2
evaluate run --shard -1/2
evaluate run --shard 0/0
evaluate run --shard a/b
evaluate run --shard 0/{nines}
evaluate run --shard NOTHING/2
evaluate run --device cuda:99
evaluate run --device tpu
evaluate run --max-images -5
evaluate run --engine slurm
evaluate run --engine ray --ray-address {long}
evaluate run --seeds
evaluate run --seeds 1 --seeds 2x
evaluate run run run
distill
distill --method mtt
distill --method mtt --dataset nothing --ipc 1
{made} --method random --ipc 0
{made} --method random --ipc -3
{made} --method random --ipc 1000000000
{made} --method random --ipc {nines}
{made} --method random --out /dev/null
{made} --method random --out ''
{made} --method random --out {long}
{made} --method dm --iterations -1
{made} --method dm --lr-images nan
{made} --method dm --lr-images 1e999
{made} --method dm --batch-real 0
{made} --method random --holdout 2
{made} --method random --holdout nan
{made} --method random --seed -1
{made} --method random --seed {nines}
{made} --method random --size 0
{made} --method random --size 100000
{made} --method random --student convnet-d9-w4-in
{made} --method random --student {escape}
{made} --method {zero}
{made} --method random --preprocess {escape}
buffer --dataset digits --experts 0
buffer --dataset digits --experts {nines}
buffer --dataset digits --epochs -1
buffer --dataset digits --batch 0
buffer --dataset digits --lr 0
buffer verify /dev/zero
buffer info {zero}
data check folder:
data check npz:/dev/zero
data check npz:{zero}
data check graphs:
data check hub:///
data check hub:{long}
data check folder:run --size -1
data check folder:run --size {nines}
reproduce plan.toml --budget -1m
reproduce plan.toml --budget {nines}h
reproduce plan.toml --budget soon
reproduce plan.toml --only [ --dry-run
reproduce /dev/zero
leaderboard show --leaderboard /dev/null
leaderboard show --ipc x
leaderboard verify {zero}
leaderboard export --format exe
leaderboard {escape}
import /dev/zero
import ''
import run --lr -1 --out n
export run --format png --out /dev/full
export run --format ''
info /proc/self/mem
info {long}
slurm --array -1 evaluate run
slurm --array {nines} evaluate run
slurm --time soon evaluate run
slurm --array
slurm --gpus '{line}' evaluate run
slurm --name '{line}' evaluate run
task transfer
task nothing run
task transfer run --to {zero}
plan plan plan
plan --workers 0 evaluate run
plan --seconds nan evaluate run
scores run --repeats -1
scores run --student {escape}
completion csh
list {zero}
list methods --json --bibtex
teacher --dataset digits --epochs 0
teacher --dataset digits --lr inf
diffusion train --dataset digits --steps -1
diffusion sample {zero}
submit run --claim x=nan
submit run --claim =
submit run --leaderboard /dev/null
push run no-owner
pull ../x/y
pull {long}/x
-- evaluate
-x
{half}
"""
"""Commands that cannot be done, a line each."""

LAST = r"""
task continual
task continual nothing
task continual run run
task continual run graphs
task continual graphs
task continual run --memory 0
task continual run --memory 1000
task continual run --memory {nines}
task continual run --orders 0
task continual run --orders 1000000000
task continual run --orders 1000 --seeds 100000
task continual run --order {fives}
task continual run --order 0,1,2
task continual run --order 0,1,2,3,4,5,6,7,8,8
task continual run --order ,
task continual run --steps 6
task continual run --steps 11
task continual run --against nothing
task continual run --against Random
task continual run --against random,random --memory 1000
task continual run --against mtt
task continual run --against mirage
task continual run --against full
task continual run --joint --memory 2
task continual run --protocol graph-v1
task continual run --protocol kd-v1
task continual run --student gin-d2-w16-mean
task continual run --epochs 0
task continual run --out run
task continual run --out plan.toml
task continual run --out run/config.json
task continual run --size 0
task nas run --nets 3
task nas run --nets 100000
task nas run --nets 100 --seeds 100000
task nas run --widest 1
task nas run --choose-from -1
task nas run --choose-from {nines} --nets 1000
task nas run --choose-from 1e3
task nas run --sample {nines} --nets 3
task nas run --real-epochs 0
task nas run --against nothing
task nas run --against random,random --nets 1000
task nas run --against mtt
task nas graphs
task membership run --shadows 2
task membership run --shadows 5
task membership run --shadows 1000000000
task membership run --images 39
task membership run --images 40 --shadows 6000
task membership run --images {nines} --shadows 5
task membership graphs
task transfer run --to ''
task transfer run --to nothing
task transfer run --to mnist --to nothing
task transfer run --to graphs:made
task transfer run --to graphs:graphs.npz
task transfer run --to folder:run
task transfer run --to npz:plan.toml
task transfer run --parts 1
task transfer run --parts 0
task transfer run --parts {nines}
task transfer run --parts 0 --to digits --to-train 0
task transfer run --parts 0 --to digits --probe-decay nan
task transfer run --parts 0 --to digits --finetune-lr inf
task transfer run --parts 0 --to digits --finetune-batch 1
task transfer graphs --to digits
evaluate run --protocol regimes
evaluate run --protocol regimes,regimes
evaluate run --protocol regimes --teacher run/synset.safetensors
evaluate run --protocol hard-v1,hard-v1
evaluate run --protocol hard-v1, --out one.json
evaluate run --protocol regimes --out one.json
evaluate run --students gin-d2-w16-mean
evaluate run --protocol mirage
evaluate graphs --protocol regimes
evaluate graphs --students convnet-d2-w32-in
evaluate graphs --students gin-d99999999-w4-mean
evaluate graphs --students gin-d2-w9999999999-mean
evaluate graphs --calibration
evaluate graphs --teacher run/synset.safetensors
evaluate graphs --size 8
data check graphs:run
data check graphs:plan.toml
data check graphs:/dev/null
data check graphs:{zero}
data check graphs:made --size 8
data check graphs:made:3
data check mutag:99
data check mutag:-1
data check mutag:{nines}
data check mutag:
{graph} --method doscond
{graph} --method doscond --max-bytes 0
{graph} --method doscond --max-bytes 1
{graph} --method doscond --max-bytes -1
{graph} --method doscond --max-bytes 1e3
{graph} --method doscond --max-bytes {nines}
{graph} --method doscond --max-bytes 500 --ipc 1
{graph} --method doscond --max-bytes 500 --coldest 0
{graph} --method doscond --max-bytes 500 --coldest nan
{graph} --method doscond --max-bytes 500 --cooling 0
{graph} --method doscond --max-bytes 500 --density nan
{graph} --method doscond --max-bytes 500 --sure inf
{graph} --method doscond --max-bytes 500 --iterations 0
{graph} --method doscond --max-bytes 500 --student convnet-d2-w32-in
{graph} --method doscond --max-bytes 500 --student gin-d99999999-w4-mean
{graph} --method doscond --max-bytes 500 --student gin-d2-w9999999999-mean
{graph} --method doscond --max-bytes 500 --validate-every 1
{graph} --method dm
{graph} --method mtt --buffers experts
{made} --method doscond
{made} --method doscond --max-bytes 500
{made} --method ncfm --buffers nothing
{made} --method ncfm --buffers experts --factor 0
{made} --method ncfm --buffers experts --factor 9
{made} --method ncfm --buffers experts --factor 3 --alpha 2
{made} --method ncfm --buffers experts --alpha 2
{made} --method ncfm --buffers experts --alpha 0 --beta 0
{made} --method ncfm --buffers experts --frequency-count 1
{made} --method ncfm --buffers experts --frequency-count {nines}
{made} --method ncfm --buffers experts --frequency-count 1000000000000
{made} --method ncfm --buffers experts --frequencies some
{made} --method frepo --pool 1000000000
{made} --method ncfm --buffers experts --patience -1
{made} --method ncfm --buffers experts --augmentation nothing
{made} --method fred-dm --coefficients 65
{made} --method fred-dm --coefficients 40
{made} --method fred-dm --coefficients -1
{made} --method fred-dm --coefficients {nines}
{made} --method fred-dm --mask-from last
{made} --method fred-mtt --coefficients 8
{made} --method ddif-dm --layers 0
{made} --method ddif-dm --width 0
{made} --method ddif-dm --width {nines}
{made} --method ddif-dm --width 1024 --layers 64
{made} --method ddif-dm --omega inf
{made} --method ddif-dm --fit-steps -1
{made} --method ddif-dm --lr-fit 0
{made} --method random --coefficients 4
{made} --method mtt --buffers experts --memory 8G
relabel graphs
scores graphs
export graphs --format png --out new
export graphs --format hub --out new
submit graphs --leaderboard board
submit run --leaderboard board --task plan.toml
submit run --leaderboard board --task run
"""
"""Commands of tasks, graphs, decoders and NCFM that cannot be done; what is of use in them is odd, but plausible."""

WORDS = {
    "zero": "\0",
    "long": "x" * 5000,
    "nines": "9" * 400,
    "fives": "5" * 5000,
    "three": "\u0663",
    "escape": "\x1b[2J\u202e",
    "line": "\n#SBATCH --x",
    "half": "\ud800",
}


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """Name and words of each."""
    begins = {"{made}": MADE, "{graph}": GRAPH_MADE}
    found = []
    for line in (*FLAGS.strip().splitlines(), *LAST.strip().splitlines()):
        first, *rest = shlex.split(line)
        argv = [word.format(**WORDS) for word in rest]
        out = () if "--out" in argv else ("--out", "new")
        begin = (*begins[first], *out) if first in begins else (first.format(**WORDS),)
        found.append((line, (*begin, *argv)))
    return found
