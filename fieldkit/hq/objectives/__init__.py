"""Torch losses and prediction heads, one file per task."""
