"""Deployment: weights from and for other tools."""
