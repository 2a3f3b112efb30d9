"""What headquarters and field agree on: the nouns, and the bundle as a file (docs/bundle-format.md)."""

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.reader import parse_bundle, read_bundle
from fieldkit.bundle.writer import save_bundle, write_bundle

__all__ = ["Bundle", "parse_bundle", "read_bundle", "save_bundle", "write_bundle"]
