"""ddbench: the benchmark suite for dataset distillation.

Importing the package is light: torch is loaded only by the modules that compute.
"""

__version__ = "0.1.0"
