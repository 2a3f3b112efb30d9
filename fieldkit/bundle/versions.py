"""The format's name and version, and the fieldkit that it needs: what the seal says, known before numpy is loaded."""

FORMAT = "fieldkit-bundle"
FORMAT_VERSION = 1
# The oldest fieldkit that can use what this one writes, and this one.
MIN_RUNTIME = "0.1"
RUNTIME = "0.1.0"
