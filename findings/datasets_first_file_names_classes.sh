#!/usr/bin/env bash
# datasets: the class names of the first parquet file are put on the labels of all files.
#
# datasets 5.2.0. Each parquet file that datasets writes says which class its label numbers mean. load_dataset believes
# the first file of the first split and casts the others to it: the numbers stay, the names change, nothing is said. Test
# files that were written apart, with the same classes in another order, are read with every label wrong, and a network
# of 100 % has 0 %. concatenate_datasets refuses the same two files, and Dataset.from_parquet of the second one alone has
# its own names. ddbench compares the names of all files and refuses (ddbench/data/hub.py).
#
# Seen:
#   datasets 5.2.0
#   written to train: cat dog cat; to test: dog cat dog
#   the test file alone: dog cat dog
#   load_dataset, train and test: cat dog cat; cat dog cat
#   load_dataset, both as one split: cat dog cat cat dog cat
#   test before train: cat dog cat; cat dog cat
#   concatenate_datasets: refused
#
# Run by hand: bash findings/datasets_first_file_names_classes.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env" # dill cannot hash datasets in a --target folder
"$folder/env/bin/python" -m pip install --quiet datasets==5.2.0 numpy==2.4.6 pyarrow==26.0.1
cat >"$folder/look.py" <<'PYTHON'
import sys

import datasets
from datasets import ClassLabel, Dataset, Features, concatenate_datasets, load_dataset

datasets.disable_progress_bars()


def write(path, names, said):
    features = Features({"label": ClassLabel(names=names)})
    Dataset.from_dict({"label": [names.index(one) for one in said]}, features=features).to_parquet(path)


def names_of(one):
    return [one.features["label"].int2str(number) for number in one["label"]]


write("train.parquet", ["cat", "dog"], ["cat", "dog", "cat"])
write("test.parquet", ["dog", "cat"], ["dog", "cat", "dog"])
alone = names_of(Dataset.from_parquet("test.parquet"))
both = load_dataset("parquet", data_files={"train": "train.parquet", "test": "test.parquet"})
one = names_of(load_dataset("parquet", data_files=["train.parquet", "test.parquet"], split="train"))
turned = load_dataset("parquet", data_files={"test": "test.parquet", "train": "train.parquet"})
try:
    concatenate_datasets([Dataset.from_parquet(name) for name in ("train.parquet", "test.parquet")])
    joined = "accepted"
except ValueError as error:
    joined = "refused" if "aligned" in str(error) else str(error)
train, test = names_of(both["train"]), names_of(both["test"])
print("datasets", datasets.__version__)
print("written to train: cat dog cat; to test: dog cat dog")
print("the test file alone:", *alone)
print(f"load_dataset, train and test: {' '.join(train)}; {' '.join(test)}")
print("load_dataset, both as one split:", *one)
print(f"test before train: {' '.join(names_of(turned['train']))}; {' '.join(names_of(turned['test']))}")
print("concatenate_datasets:", joined)
right, wrong = ["cat", "dog", "cat"], ["dog", "cat", "dog"]
found = alone, train, test, one, joined
sys.exit(0 if found == (wrong, right, right, right + right, "refused") else 1)
PYTHON
cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/env/bin/python" "$folder/look.py"
