"""Adversarial attacks in pixel space: attacks, budgets, probes, suite."""
