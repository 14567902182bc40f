"""differ.py A B: how far the latents of B are from those of A, as JSON on standard output: relative L2,
{"video": x, "audio": y}. Both are files that ovi saved with --save-latents, in F32."""
import array
import json
import math
import sys


def tensors(path):
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, tensor in json.loads(data[8:start]).items():
        if name != "__metadata__" and tensor["dtype"] == "F32":
            begin, end = tensor["data_offsets"]
            yield name, array.array("f", data[start + begin:start + end])


def distance(a, b):
    if len(a) != len(b):
        raise ValueError(f"expected {len(a)} values, found {len(b)}")
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)) / sum(x * x for x in a))


def main():
    a, b = dict(tensors(sys.argv[1])), dict(tensors(sys.argv[2]))
    found = {name: distance(values, b[name]) for name, values in a.items()}
    if not found or not all(math.isfinite(x) for x in found.values()):
        sys.exit(f"expected finite latents in F32, found {found}")
    json.dump(found, sys.stdout)
    print()


main()
