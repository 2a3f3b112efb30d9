"""Smaller copies of trained models."""
