#!/usr/bin/env python3
"""Builds keys, statements and sealed datagrams as PROTOCOL.md section 5 says, from the plain fields of a vector file, and
compares.

Nothing here is shared with the program but that page: the cryptography is libsodium's, through PyNaCl, and OpenSSL's, through
cryptography.

    check_keys.py tests/vectors/keys.json
"""

import hashlib
import hmac
import json
import struct
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
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


def derive(length, secret, info):
    return HKDF(hashes.SHA256(), length, salt=None, info=info).derive(secret)


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


class Life:
    """One life of a station: what it signs, marks and seals with."""

    def __init__(self, floor, source, session, group_key, key):
        self.floor, self.source, self.session, self.key = floor, source, session, key
        info = b"floorcast datagram\0" + struct.pack(">IQQ", floor, source, session)
        keys = derive(96, group_key, info)
        self.cipher, self.nonce_key = AESGCM(keys[:32]), keys[32:]

    def seal(self, plain, proof, digest_and_root=None):
        """R-SEAL-1, R-SEAL-2."""
        header, messages = plain[:32], plain[32:]
        nonce = sha(self.nonce_key, digest_and_root or digest(plain) + proof)[:12]
        return header + nonce + self.cipher.encrypt(nonce, messages + proof, header)

    def train(self, plains, time_ms, shows_key):
        """R-TRAIN-1, R-TRAIN-2."""
        depth = (len(plains) - 1).bit_length()
        leaves = 1 << depth
        nodes = {leaves + index: bytes(16) for index in range(leaves)}
        time = struct.pack(">Q", time_ms)
        digests = [sha(b"\x01", time, bytes([leaves + index]), plain) for index, plain in enumerate(plains)]
        for index in range(len(plains)):
            nodes[leaves + index] = digests[index][:16]
        for place in range(leaves - 1, 0, -1):
            below = nodes[2 * place], nodes[2 * place + 1]
            nodes[place] = sha(b"\x02", time, bytes([place]), *below)[:16]
        body = struct.pack(">IQQQB", self.floor, self.source, self.session, time_ms, depth)
        signature = self.key.sign(b"floorcast train\0" + body + nodes[1]).signature
        proofs = []
        for index in range(len(plains)):
            place, path = leaves + index, b""
            while place > 1:
                path += nodes[place ^ 1]
                place >>= 1
            key = bytes(self.key.verify_key) if shows_key else b""
            end = time[2:] + bytes([index, depth]) + signature + bytes([2 if shows_key else 1])
            proofs.append((key + path + end, digests[index] + nodes[1]))
        return proofs

    def pair(self, other, plain, time_ms):
        """R-PAIR-1, R-PAIR-2."""
        ours = bindings.crypto_sign_ed25519_sk_to_curve25519(bytes(self.key) + bytes(self.key.verify_key))
        theirs = bindings.crypto_sign_ed25519_pk_to_curve25519(bytes(other))
        publics = sorted([bytes(self.key.verify_key), bytes(other)])
        info = b"floorcast pair\0" + struct.pack(">I", self.floor) + b"".join(publics)
        key = derive(32, bindings.crypto_scalarmult(ours, theirs), info)
        time = struct.pack(">Q", time_ms)
        mark = hmac.digest(key, digest(plain) + time, "sha256")[:16]
        return mark + time[2:] + bytes(self.key.verify_key) + b"\x03"


def digest(plain):
    return sha(b"\0", plain)


def check_datagrams(floor, vectors, source_key, grant):
    group_key = bytes.fromhex(vectors["group_key"])
    station_key = signing.SigningKey(bytes.fromhex(vectors["workstation_seed"]))
    source = Life(floor, vectors["source"], vectors["source_session"], group_key, source_key)
    station = Life(floor, vectors["station"], vectors["station_session"], group_key, station_key)
    time_ms = vectors["time_ms"]

    def train(name, life, shows_key):
        plains = [bytes.fromhex(plain) for plain in vectors[name]["plain"]]
        proofs = life.train(plains, time_ms, shows_key)
        sealed = b"".join(life.seal(plain, *proof) for plain, proof in zip(plains, proofs))
        check(name, sealed, bytes.fromhex(vectors[name]["bytes"]))
        return plains, proofs

    train("train", source, False)
    plains, proofs = train("keyed_train", station, True)
    plain = bytes.fromhex(vectors["unsigned"]["plain"])
    check("unsigned", source.seal(plain, b"\0"), bytes.fromhex(vectors["unsigned"]["bytes"]))
    plain = bytes.fromhex(vectors["pair"]["plain"])
    proof = station.pair(source_key.verify_key, plain, time_ms)
    check("pair", station.seal(plain, proof), bytes.fromhex(vectors["pair"]["bytes"]))
    # R-RCPT-2: the second of the workstation's train, without its seal.
    check("receipt", plains[1] + proofs[1][0], bytes.fromhex(vectors["receipt"]["bytes"]))
    # R-GRANT-3: a train of its own, with a number from 2^63 on.
    header = struct.pack(">BBHIQQQ", 1, 0, 1, floor, source.source, source.session, 1 << 63)
    plain = header + struct.pack(">BBH", 17, 0, len(grant)) + grant
    sealed = source.seal(plain, *source.train([plain], time_ms, False)[0])
    check("grant's datagram", sealed, bytes.fromhex(vectors["grant"]))


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

    datagrams = vectors["datagrams"]
    label = b"sup-1"
    fields = struct.pack(">B", len(label)) + label + bytes(source.verify_key)
    # All lanes, actual only, the one group, a day from the second that the datagrams are of.
    not_before = datagrams["time_ms"] // 1000 - 1
    fields += struct.pack(">BBB", 7, 1, 1) + bytes.fromhex(datagrams["train"]["plain"][0])[36:40]
    fields = fields[:-4] + struct.pack(">I", struct.unpack(">I", fields[-4:])[0] >> 2)
    fields += struct.pack(">QQ", not_before, not_before + 86_400)
    to_sign, body = statement(b"floorcast grant", floor, fields)
    check_datagrams(floor, datagrams, source, body + root.sign(to_sign).signature)

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
