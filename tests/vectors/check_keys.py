#!/usr/bin/env python3
"""Builds keys and statements as PROTOCOL.md section 5 says, from the plain fields of a vector file, and compares.

Nothing here is shared with the program but that page: the cryptography is libsodium's, through PyNaCl.

    check_keys.py tests/vectors/keys.json
"""

import hashlib
import json
import struct
import sys

from nacl import bindings, pwhash, signing

LANES = ["emergency", "routine", "bulk"]
STATUSES = ["actual", "exercise", "system", "test"]


def bits(all_words, words):
    return sum(1 << all_words.index(word) for word in words)


def statement(words, floor, fields):
    """R-STATE-1: what is signed, and the signature behind it."""
    body = struct.pack(">BI", 1, floor) + fields
    return words + b"\0" + body, body


def check(name, built, given):
    if built != given:
        sys.exit(f"{name}: built {built.hex()}, and the file says {given.hex()}")
    print(f"{name}: the same, {len(given)} bytes")


def main(path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    floor = vectors["floor"]
    root = signing.SigningKey(bytes.fromhex(vectors["root_seed"]))
    source = signing.SigningKey(bytes.fromhex(vectors["source_seed"]))
    check("root's public key", bytes(root.verify_key), bytes.fromhex(vectors["root_public"]))

    digest = hashlib.sha256(bytes(root.verify_key)).hexdigest()[:20]
    fingerprint = "-".join(digest[at : at + 4] for at in range(0, 20, 4))
    check("fingerprint", fingerprint.encode(), vectors["root_fingerprint"].encode())

    def signed(name, words, fields):
        to_sign, body = statement(words, floor, fields)
        check(name, body + root.sign(to_sign).signature, bytes.fromhex(vectors[name]["bytes"]))

    grant = vectors["grant"]
    label = grant["name"].encode()
    fields = struct.pack(">B", len(label)) + label + bytes(source.verify_key)
    fields += struct.pack(">BB", bits(LANES, grant["lanes"]), bits(STATUSES, grant["statuses"]))
    fields += struct.pack(">B", len(grant["groups"]))
    for group in sorted(grant["groups"]):
        fields += struct.pack(">I", group)
    fields += struct.pack(">QQ", grant["not_before"], grant["not_after"])
    signed("grant", b"floorcast grant", fields)

    revocations = vectors["revocations"]
    fields = struct.pack(">QQ", revocations["edition"], revocations["issued"])
    for key in sorted(bytes.fromhex(key) for key in revocations["keys"]):
        fields += key
    signed("revocations", b"floorcast revocations", fields)

    fields = b""
    for key in vectors["group_keys"]["keys"]:
        fields += struct.pack(">HQQ", key["id"], key["not_before"], key["not_after"])
        fields += bytes.fromhex(key["key"])
    signed("group_keys", b"floorcast group keys", fields)

    floor_file = vectors["floor_file"]
    fields = struct.pack(">QQ", floor_file["edition"], floor_file["issued"])
    fields += hashlib.sha256(floor_file["contents"].encode()).digest()
    signed("floor_file", b"floorcast floor file", fields)

    sealed = vectors["sealed"]
    salt, nonce = bytes.fromhex(sealed["salt"]), bytes.fromhex(sealed["nonce"])
    before = struct.pack(">BBIB", 1, 1, 65_536, 3) + salt + nonce
    key = pwhash.argon2id.kdf(
        32, sealed["passphrase"].encode(), salt, opslimit=3, memlimit=65_536 * 1024
    )
    seal = bindings.crypto_aead_xchacha20poly1305_ietf_encrypt
    check("sealed", before + seal(bytes(source), before, nonce, key), bytes.fromhex(sealed["bytes"]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
