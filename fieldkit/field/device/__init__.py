"""What this device is, and how warm."""
