"""A private key locked by a passphrase: PKCS #8 (RFC 5958) with PBES2 (RFC 8018).

Written here because the library that reads it writes 2,048 rounds of PBKDF2 and takes no other
number: a stolen file would be guessed at three hundred times the speed. ``openssl pkey`` opens it.
"""

import base64
import os

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

ROUNDS = 600_000
"""OWASP's figure for PBKDF2-HMAC-SHA256; about a tenth of a second."""

_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")
_HMAC_SHA256 = bytes.fromhex("300c06082a864886f70d02090500")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")


def locked(private: Ed25519PrivateKey, passphrase: bytes) -> bytes:
    """Return ``private`` as PEM that only ``passphrase`` opens."""
    salt, iv = os.urandom(16), os.urandom(16)
    key = PBKDF2HMAC(SHA256(), 32, salt, ROUNDS).derive(passphrase)
    pad = PKCS7(128).padder()
    plain = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    secret = encryptor.update(pad.update(plain) + pad.finalize()) + encryptor.finalize()
    rounds = _der(0x02, ROUNDS.to_bytes(3, "big"))
    kdf = _der(0x30, _PBKDF2 + _der(0x30, _der(0x04, salt) + rounds + _HMAC_SHA256))
    cipher = _der(0x30, _AES_256_CBC + _der(0x04, iv))
    scheme = _der(0x30, _PBES2 + _der(0x30, kdf + cipher))
    text = base64.encodebytes(_der(0x30, scheme + _der(0x04, secret))).replace(b"\n", b"")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    name = b"ENCRYPTED PRIVATE KEY-----"
    return b"\n".join([b"-----BEGIN " + name, *lines, b"-----END " + name, b""])


def _der(tag: int, content: bytes) -> bytes:
    """Return one DER element; nothing here is longer than 255 bytes."""
    size = len(content)
    return bytes([tag, size] if size < 128 else [tag, 0x81, size]) + content
