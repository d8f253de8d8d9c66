"""Graphs: sets of small labelled graphs, Mirage on them, students that learn from graphs or from trees.

What runs, evaluations and the board ask of it is in :mod:`ddbench.modalities.graph`. Readers, trees, mining and the
distillation import no torch.
"""
