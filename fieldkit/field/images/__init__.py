"""Image files as arrays of native counts."""
