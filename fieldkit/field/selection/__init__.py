"""Which recipe of a bundle this device should run."""
