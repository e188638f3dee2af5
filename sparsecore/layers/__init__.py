"""Layers: forward beside backward."""
