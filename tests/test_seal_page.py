"""docs/seal.md: its commands are run, and what it says of bytes and files is the code's."""

from __future__ import annotations

from pathlib import Path

import handmade
import pytest
import readme

from fieldkit.bundle import encryption, keys, signatures
from fieldkit.bundle.writer import save_bundle
from fieldkit.field.learning import state
from fieldkit.field.trust import policy, serials, store

PAGE = (Path(__file__).parents[1] / "docs" / "seal.md").read_text(encoding="utf-8")
BLOCKS = readme.blocks(PAGE)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    save_bundle(handmade.bundle(), tmp_path / "digits.h5")
    assert [block.marker for block in BLOCKS] == ["test", "test"]
    for block in BLOCKS:
        readme.run_block(block, tmp_path, capture=True, timeout=120)
    assert (tmp_path / "digits.onnx").exists()
    found = policy.TrustStore().policy()
    assert found is not None
    assert found.locked


def test_what_the_page_says_of_bytes() -> None:
    for text in (
        f"`{keys.WORD}`",
        f"`{keys.CERTIFIED.decode().strip()}`, a newline",
        f"`{encryption.CLOSED.decode().strip()}` and a newline",
        f"a\nrandom nonce of {encryption.NONCE} bytes",
        f"`{encryption.CHECKPOINT.decode().strip()}`, a newline and the bundle's digest",
        f"`{state.PURPOSE}`",
        f"up to {signatures.MOST} people can sign",
        f"| `{store.TRUST}` |",
        f"| `{serials.FILE}` |",
        f"| `{policy.DEVICE_KEY}` |",
        f"`{keys.WORD}`, the name, the id, and base64 of {2 * keys.KEY + keys.SIGNATURE} bytes",
    ):
        assert text in PAGE, text
