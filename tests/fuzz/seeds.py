#!/usr/bin/env python3
"""seeds.py FOLDER: what the fuzzers start from, one folder a kind: the bad inputs of the corpus and
the good ones they were made from."""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "corpus"))
import make_bad  # noqa: E402
import run_bad  # noqa: E402
from corpus import safetensors, spm, state_dict, tensor, torch_tensor  # noqa: E402

MOST_BYTES = 65536


class Shipped:
    """Stands in for the micro preset: what the rows of these kinds take from it."""
    latents = safetensors({"__metadata__": {"ovi.request": '{"rng":"portable"}', "header.crc32": "00000000"},
                           "video": tensor(0, 64, [1, 1, 4, 4]), "audio": tensor(64, 96, [2, 4])}, bytes(96))
    resume = latents

    def read(self, name):
        if name == "ovi.json":
            with open(os.path.join(HERE, "..", "..", "models", "tiny", name), "rb") as f:
                return f.read()
        return spm()


def texts():
    """Prompts: the published cleaning's cases, and every speech and sound tag."""
    with open(os.path.join(HERE, "..", "data", "golden", "text_clean.json")) as f:
        yield from strings(json.load(f))
    yield "<S>Hi.<E> <AUDCAP>Rain.<ENDAUDCAP> Audio: rain &amp;amp; \u00c3\u00a9\u2019 \ufb01 \uff21"


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for v in value.values() if isinstance(value, dict) else value:
            yield from strings(v)


def all_seeds():
    for key in ("safetensors", "index", "torch", "spm", "tokenizer_json", "latents", "ovi_json", "image", "clip",
                "csv", "tsv", "jsonl", "yaml", "told"):
        kind = make_bad.KINDS[key]
        for row in kind.rows(Shipped()) if kind.needs_micro else kind.rows():
            yield key, row.content
    for name, opcodes, _ in make_bad.bad_pickles():
        yield "pickle", opcodes
    yield "pickle", state_dict(("the.weight", torch_tensor()))
    for key, row in run_bad.kept_rows():
        yield key, row.content
    for text in texts():
        yield "prompt", text.encode(errors="surrogatepass")


def main():
    counts = {}
    for kind, content in all_seeds():
        if not isinstance(content, bytes) or len(content) > MOST_BYTES:
            continue
        counts[kind] = counts.get(kind, 0) + 1
        folder = os.path.join(sys.argv[1], kind)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, f"seed-{counts[kind]:04}"), "wb") as f:
            f.write(content)


if __name__ == "__main__":
    main()
