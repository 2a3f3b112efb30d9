"""Trainings that survive loss of power, and keep to a budget of time, memory and heat."""
