#!/usr/bin/env python3
"""Another program on the card: holds all but LEFT GiB of it, says so in one line of JSON, and keeps it
until it is killed.

    ballast.py LEFT
"""
import json
import signal
import sys

import torch

GRAIN = 2 << 20  # of the driver


def hold(left):
    """Tensors, after which the driver names at most `left` bytes as free."""
    held = []
    while (more := torch.cuda.mem_get_info()[0] - left) > 0:
        held.append(torch.empty(max(more // GRAIN * GRAIN, GRAIN), dtype=torch.uint8, device="cuda"))
    return held


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.cuda.init()
    held = hold(int(float(sys.argv[1]) * 2**30))
    free, total = torch.cuda.mem_get_info()
    print(json.dumps({"held_bytes": sum(x.numel() for x in held), "free_bytes": free, "total_bytes": total}), flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
