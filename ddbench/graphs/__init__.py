"""Graphs: sets of small labelled graphs, Mirage on them, students that learn from graphs or from trees.

A room of its own, used from Python (docs/graphs.md): the command line knows images only. Readers, trees, mining and the
distillation import no torch.
"""
