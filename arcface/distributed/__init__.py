"""Ranks: the process group with its collectives, and the watchdog that names and ends lost ranks."""
