"""Which bundles a device opens: keys, signatures, serials, and the one door through which all commands go."""
