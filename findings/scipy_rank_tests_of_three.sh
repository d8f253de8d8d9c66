#!/usr/bin/env bash
# SciPy's rank tests of three values give p-values that no arrangement of three values can have.
#
# scipy 1.17.1. Of 3! = 6 orders two are as extreme as a perfect one, so the exact p of a rank correlation at n = 3 is
# 1/3: spearmanr gives 0.0 (a t distribution at infinity), kendalltau gives 1/3. Of 20 ways to divide six runs into 3
# and 3 two are as extreme as a complete separation, so p is at least 0.1: mannwhitneyu gives that for different
# values, but 0.047 where three accuracies on one side are equal, since its method "auto" then goes from the exact
# distribution to the normal one, without a word. permutation_test gives 0.1 and 1/3. With three seeds a benchmark
# reports "significant" so. ddbench's intervals are Student's, of means (ddbench/statistics.py).
#
# Seen:
#   scipy 1.17.1
#   spearmanr of 3 in order: 0.0000, exactly 0.3333
#   mannwhitneyu of 3 and 3, all different: 0.1000
#   mannwhitneyu of 3 and 3, equal ones: 0.0469, exactly 0.1000
#   kruskal of 3 and 3, equal ones: 0.0253
#
# Run by hand: bash findings/scipy_rank_tests_of_three.sh. Exit 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder" numpy==2.4.6 scipy==1.17.1
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys
import warnings

import numpy
import scipy
from scipy import stats

warnings.simplefilter("error")
low, high, order = [0.5, 0.5, 0.5], [0.7, 0.7, 0.7], [1, 2, 3]


def rank_sum(x, y, axis):
    return stats.mannwhitneyu(x, y, axis=axis).statistic


def correlation(x):
    return stats.spearmanr(x, order).statistic


found = [
    float(stats.spearmanr(order, order).pvalue),
    float(stats.permutation_test((order,), correlation, permutation_type="pairings").pvalue),
    float(stats.mannwhitneyu([0.5, 0.51, 0.52], [0.7, 0.71, 0.72]).pvalue),
    float(stats.mannwhitneyu(low, high).pvalue),
    float(stats.permutation_test((low, high), rank_sum, vectorized=True).pvalue),
    float(stats.kruskal(low, high).pvalue),
]
print("scipy", scipy.__version__)
print(f"spearmanr of 3 in order: {found[0]:.4f}, exactly {found[1]:.4f}")
print(f"mannwhitneyu of 3 and 3, all different: {found[2]:.4f}")
print(f"mannwhitneyu of 3 and 3, equal ones: {found[3]:.4f}, exactly {found[4]:.4f}")
print(f"kruskal of 3 and 3, equal ones: {found[5]:.4f}")
sys.exit(0 if numpy.round(found, 4).tolist() == [0.0, 0.3333, 0.1, 0.0469, 0.1, 0.0253] else 1)
PYTHON
