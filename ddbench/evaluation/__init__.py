"""The fair evaluator: protocols as data, paired seeds, every run kept, the test set used once."""
