"""Key files: what is in them, who may read them, and that nothing else is taken for one."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import device
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle.keys import (
    CERTIFIED,
    PrivateKey,
    PublicKey,
    key_id,
    read_private_key,
    read_public_key,
    write_key_pair,
)
from fieldkit.errors import FieldkitError, TrustError, UsageError

LINE = device.HQ.public().encode()


def pem(key: ed25519.Ed25519PrivateKey | x25519.X25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def private(folder: Path, data: bytes, mode: int = 0o600) -> Path:
    path = folder / "some.key"
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_pair_on_disk(tmp_path: Path) -> None:
    key = PrivateKey.generate("hq")
    paths = write_key_pair(tmp_path, key)
    assert [path.name for path in paths] == ["hq.key", "hq.pub"]
    assert stat.S_IMODE(paths[0].stat().st_mode) == 0o600
    assert read_public_key(paths[1]) == key.public() == read_private_key(paths[0]).public()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hq.key", "hq.pub"]


def test_the_line_of_a_public_key() -> None:
    word, name, identity, content = LINE.split(" ")
    raw = base64.b64decode(content)
    assert (word, name, len(raw)) == ("fieldkit-key-1", "hq", 128)
    assert identity == key_id(raw[:32]) == device.HQ.public().id
    ed25519.Ed25519PublicKey.from_public_bytes(raw[:32]).verify(raw[64:], b"fieldkit receiving key 1\n" + raw[32:64])


def test_a_private_key_is_two_blocks_that_openssl_reads() -> None:
    blocks = device.HQ.encode().split(b"-----BEGIN ")[1:]
    found = [load_pem_private_key(b"-----BEGIN " + block, None) for block in blocks]
    assert [type(each).__name__ for each in found] == ["Ed25519PrivateKey", "X25519PrivateKey"]


def test_a_passphrase(tmp_path: Path) -> None:
    key = PrivateKey.generate("hq")
    path, _ = write_key_pair(tmp_path, key, "correct horse")
    assert path.read_bytes().count(b"BEGIN ENCRYPTED PRIVATE KEY") == 2
    asked = []
    assert read_private_key(path, lambda name: asked.append(name) or "correct horse").public() == key.public()
    assert asked == ["hq"]
    with pytest.raises(UsageError, match="the passphrase is wrong"):
        read_private_key(path, lambda name: "correct horsf")
    with pytest.raises(UsageError, match="the key has a passphrase"):
        read_private_key(path)
    # Encrypted, it may lie where others can read, as on a stick without permissions.
    path.chmod(0o644)
    assert read_private_key(path, lambda name: "correct horse").public() == key.public()


def test_a_bare_key_that_others_may_read(tmp_path: Path) -> None:
    for mode in (0o640, 0o604, 0o666):
        path = private(tmp_path, device.HQ.encode(), mode)
        with pytest.raises(UsageError, match=f"others may read; found mode {mode:04o}"):
            read_private_key(path)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "hq.pub").write_text("somebody's")
    with pytest.raises(UsageError, match=r"hq\.pub: a key is never written over"):
        write_key_pair(tmp_path, device.HQ)
    assert [path.name for path in tmp_path.iterdir()] == ["hq.pub"]
    (tmp_path / "a.key").symlink_to("nowhere")
    with pytest.raises(UsageError, match="never written over"):
        write_key_pair(tmp_path, PrivateKey.generate("a"))


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a b", "a\n", "ü", "x" * 65])
def test_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a name for a key"):
        write_key_pair(tmp_path, PrivateKey.generate(name))
    assert not list(tmp_path.iterdir())


def test_the_length_of_a_passphrase(tmp_path: Path) -> None:
    for secret in ("", "1234567", "x" * 201):
        with pytest.raises(UsageError, match=r"not a passphrase to use; found .* expected 8 to 200"):
            write_key_pair(tmp_path, device.HQ, secret)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("secret", ["\U0001f9ed" * 200, "\udcff\udcfe345678", "a\0b c\n\td  "])
def test_any_characters_in_a_passphrase(tmp_path: Path, secret: str) -> None:
    """Those of an environment variable that is not UTF-8 too."""
    path, _ = write_key_pair(tmp_path, device.HQ, secret)
    assert read_private_key(path, lambda name: secret).public() == device.HQ.public()
    for wrong in ("", secret[:-1], "x" * 5000):
        with pytest.raises(UsageError, match="the passphrase is wrong"):
            read_private_key(path, lambda name, wrong=wrong: wrong)


def test_a_public_key_whose_parts_do_not_belong_together() -> None:
    mine, other = device.HQ.public(), device.STRANGER.public()
    swapped = PublicKey("hq", mine.signing, other.receiving, mine.certificate)
    with pytest.raises(TrustError, match="not certified by its signing key"):
        PublicKey.decode(swapped.encode(), "file")
    with pytest.raises(TrustError, match="not certified"):
        PublicKey.decode(PublicKey("hq", mine.signing, other.receiving, other.certificate).encode(), "file")
    with pytest.raises(TrustError, match=f"the key's own id is {mine.id}"):
        PublicKey.decode(LINE.replace(mine.id, other.id), "file")


def test_a_signature_of_a_statement_does_not_certify_a_key() -> None:
    """The two kinds of message that a key signs cannot be taken for each other."""
    assert not b"fieldkit statement 1\n".startswith(CERTIFIED)
    assert not CERTIFIED.startswith(b"fieldkit statement 1\n")


@settings(max_examples=300)
@given(st.integers(0, len(LINE) - 1), st.characters(min_codepoint=1, max_codepoint=255))
def test_no_changed_line_is_the_key(place: int, sign: str) -> None:
    changed = LINE[:place] + sign + LINE[place + 1 :]
    name_at = range(len("fieldkit-key-1 "), len("fieldkit-key-1 hq"))
    try:
        found = PublicKey.decode(changed, "file")
    except (UsageError, TrustError):
        return
    assert changed == LINE or (place in name_at and found.id == device.HQ.public().id)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a public key"),
        ("ssh-ed25519 AAAA hq", "not a public key; found ssh-ed25519"),
        (LINE.replace("fieldkit-key-1", "fieldkit-key-2"), "found fieldkit-key-2"),
        (LINE + " more", "not a public key"),
        (LINE.replace(" hq ", " h/q "), "not a public key"),
        (LINE + "\n\n", "not a public key|was changed"),
        (f"{LINE}\n{LINE}\n", "not a public key|without base64"),
        (LINE[:-4], "of 126 bytes"),
        (device.HQ.encode().decode(), "found a private key"),
    ],
)
def test_what_is_no_public_key(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "some.pub"
    path.write_text(text)
    with pytest.raises(FieldkitError, match=reason):
        read_public_key(path)


def test_what_is_no_private_key(tmp_path: Path) -> None:
    signing, receiving = ed25519.Ed25519PrivateKey.generate(), x25519.X25519PrivateKey.generate()
    curve = ec.generate_private_key(ec.SECP256R1())
    for data, reason in [
        (b"", "something else"),
        (LINE.encode(), "a public key"),
        (pem(signing), "something else"),
        (pem(receiving) + pem(signing), "X25519PrivateKey and Ed25519PrivateKey"),
        (pem(signing) + pem(signing), "Ed25519PrivateKey and Ed25519PrivateKey"),
        (pem(signing) + pem(curve), "Ed25519PrivateKey and EC"),
        (pem(signing) + pem(receiving) + b"more\n", "something else"),
        (b"Proc-Type: 4\n" + pem(signing) + pem(receiving), "something else"),
        (pem(signing).replace(b"MC4C", b"MC4D") + pem(receiving), "a damaged key"),
    ]:
        with pytest.raises(UsageError, match=f"not a private key; found {reason}"):
            read_private_key(private(tmp_path, data))
    assert read_private_key(private(tmp_path, pem(signing) + pem(receiving))).name == "some"


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_any_bytes_as_a_private_key(data: bytes) -> None:
    with pytest.raises(UsageError):
        PrivateKey.decode(data, "some", "some.key")
    head = b"-----BEGIN PRIVATE KEY-----\n" + base64.b64encode(data) + b"\n-----END PRIVATE KEY-----\n"
    with pytest.raises(UsageError):
        PrivateKey.decode(head * 2, "some", "some.key")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such public key"):
        read_public_key(tmp_path / "a.pub")
    with pytest.raises(UsageError, match="no such private key"):
        read_private_key(tmp_path / "a.key")
