"""Weights as files: state dicts, what a run's output directory contains, and conversion of published weights."""
