"""Trained models: written, run, scored, and how far they can be believed."""
