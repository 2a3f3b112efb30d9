"""What a recipe or a model takes on this device."""
