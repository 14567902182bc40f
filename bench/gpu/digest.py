"""digest.py AT: SHA-256 of the latents, frames and sound of a clip (AT.safetensors, AT.y4m, AT.wav), to
AT.digest.json; frames and sound, which are large, are taken away. Heads, which tell settings, do not
count."""
import hashlib
import json
import os
import sys


def latents(data):
    return data[8 + int.from_bytes(data[:8], "little"):]


def frames(data):
    return data[data.index(b"\n"):]


def sound(data):
    at = data.index(b"data")
    return data[at + 8:at + 8 + int.from_bytes(data[at + 4:at + 8], "little")]


KINDS = {".safetensors": latents, ".y4m": frames, ".wav": sound}


def main():
    at, found = sys.argv[1], {}
    for ending, part in KINDS.items():
        if os.path.exists(at + ending):
            with open(at + ending, "rb") as file:
                found[part.__name__] = hashlib.sha256(part(file.read())).hexdigest()
    with open(at + ".digest.json", "w", encoding="utf-8") as file:
        json.dump(found, file)
    for ending in (".y4m", ".wav"):
        if os.path.exists(at + ending):
            os.remove(at + ending)


main()
