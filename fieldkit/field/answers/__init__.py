"""What a model says about files, as many and as they come."""
