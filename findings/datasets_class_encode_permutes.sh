#!/usr/bin/env bash
# datasets: class_encode_column gives integer labels other numbers, as soon as there are more than ten classes.
#
# datasets 5.2.0. A stratified split asks for a ClassLabel column and names class_encode_column for it. That takes the
# labels as text and sorts the text, "10" before "2": of the labels 0 to 99, which are valid class numbers as they are,
# 88 become others, without a word; with ten classes none does. A network or soft labels made with the old numbers then
# do not fit. cast_column with ClassLabel(num_classes=100) keeps the numbers. A subset has numbers of its own as well:
# of the labels 3 and 7, 3 becomes 0. ddbench writes its class column itself (ddbench/hub/columns.py).
#
# Seen:
#   datasets 5.2.0
#   train_test_split(stratify_by_column="label") of integers: refused
#   class_encode_column, 10 classes: 0 changed
#   class_encode_column, 12 classes: 0 1 4 5 6 7 8 9 10 11 2 3
#   class_encode_column, 100 classes: 88 changed
#   cast_column, 100 classes: 0 changed
#   class_encode_column of 3 and 7: 0 1
#
# Run by hand: bash findings/datasets_class_encode_permutes.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env" # dill cannot hash datasets in a --target folder
"$folder/env/bin/python" -m pip install --quiet datasets==5.2.0 numpy==2.4.6
cat >"$folder/look.py" <<'PYTHON'
import sys

import datasets
from datasets import ClassLabel, Dataset

datasets.disable_progress_bars()


def labelled(labels):
    return Dataset.from_dict({"label": list(labels)})


def encoded(labels):
    return list(labelled(labels).class_encode_column("label")["label"])


def changed(labels):
    return sum(label != index for index, label in enumerate(labels))


try:
    labelled([0, 1] * 4).train_test_split(test_size=0.5, stratify_by_column="label")
    split = "accepted"
except ValueError as error:
    split = "refused" if "ClassLabel" in str(error) else str(error)
cast = list(labelled(range(100)).cast_column("label", ClassLabel(num_classes=100))["label"])
ten, twelve, hundred, two = (encoded(labels) for labels in (range(10), range(12), range(100), (3, 7)))
print("datasets", datasets.__version__)
print('train_test_split(stratify_by_column="label") of integers:', split)
print("class_encode_column, 10 classes:", changed(ten), "changed")
print("class_encode_column, 12 classes:", *twelve)
print("class_encode_column, 100 classes:", changed(hundred), "changed")
print("cast_column, 100 classes:", changed(cast), "changed")
print("class_encode_column of 3 and 7:", *two)
found = split, changed(ten), twelve, changed(hundred), changed(cast), two
sys.exit(0 if found == ("refused", 0, [0, 1, *range(4, 12), 2, 3], 88, 0, [0, 1]) else 1)
PYTHON
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/env/bin/python" "$folder/look.py"
