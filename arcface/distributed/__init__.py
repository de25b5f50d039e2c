"""Ranks: collectives, and the watchdog that ends the others when one is lost."""
