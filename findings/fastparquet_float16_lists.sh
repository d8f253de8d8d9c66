#!/usr/bin/env bash
# fastparquet reads columns of float16 as bytes, cut where their last byte is 0, and lists in lists as None.
#
# fastparquet 2026.9.0, pyarrow 26.0.1, polars 2.1.0. Soft labels and latents are stored as lists of float16, images as
# lists in lists. pyarrow writes both, pyarrow and polars read them back to the bit. fastparquet gives the two bytes of
# each float16, without the last where it is 0 (the smallest positive number has one byte, 0.0 has none), so that not
# even np.frombuffer helps; and a whole image is None, with no error either way. ddbench stores float32 and reads with
# pyarrow (ddbench/hub/columns.py).
#
# Seen:
#   fastparquet 2026.9.0
#   stored: [0.5, -2.5, 0.0, 5.960464477539063e-08] [[0.0, 1.0], [2.0, 3.0]]
#   pyarrow and polars, float16, float32, image: True True
#   fastparquet, float16: b'\x008' b'\x00\xc1' b'' b'\x01'
#   fastparquet, float32: 0.5 -2.5 0.0 5.960464477539063e-08
#   fastparquet, image: None
#
# Run by hand: bash findings/fastparquet_float16_lists.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" \
  fastparquet==2026.9.0 pyarrow==26.0.1 polars==2.1.0 pandas==3.1.1 numpy==2.4.6
PYTHONPATH="$folder" python3 -W ignore - "$folder/columns.parquet" <<'PYTHON'
import sys
from importlib.metadata import version

import polars
import pyarrow as pa
import pyarrow.parquet as pq
from fastparquet import ParquetFile

path = sys.argv[1]
half, image = [0.5, -2.5, 0.0, 2.0**-24], [[0.0, 1.0], [2.0, 3.0]]
columns = {
    "halves": pa.array([half], pa.list_(pa.float16())),
    "floats": pa.array([half], pa.list_(pa.float32())),
    "image": pa.array([image], pa.list_(pa.list_(pa.float32()))),
}
pq.write_table(pa.table(columns), path)
table, frame, other = pq.read_table(path), polars.read_parquet(path), ParquetFile(path).to_pandas()
read = {name: other[name][0] for name in columns}
print("fastparquet", version("fastparquet"))
print("stored:", half, image)
by_arrow = [table[name].to_pylist()[0] for name in columns]
by_polars = [frame[name].to_list()[0] for name in columns]
print("pyarrow and polars, float16, float32, image:", by_arrow == [half, half, image], by_polars == [half, half, image])
cut = [bytes(value) for value in read["halves"]]
print("fastparquet, float16:", *cut)
print("fastparquet, float32:", *map(float, read["floats"]))
print("fastparquet, image:", read["image"])
ok = by_arrow == by_polars == [half, half, image] and cut == [b"\x008", b"\x00\xc1", b"", b"\x01"]
sys.exit(0 if ok and list(read["floats"]) == half and read["image"] is None else 1)
PYTHON
