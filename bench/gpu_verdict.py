#!/usr/bin/env python3
"""What of a gpu.json is not as it must be: commands that failed, clips whose bytes differ, a process
that held more memory than it named.

    gpu_verdict.py GPU.json         exit code: the worst of the commands, else 1 for the others
"""
import json
import sys

import gpu_overhead


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        run = json.load(file)
    failed = [p for p in run["pieces"] if p["rc"] != 0]
    for p in failed:
        print(f"FAILED: {p['name']}: exit {p['rc']}")
    others = [row for row in run["same"] if row["others"]]
    for row in others:
        print(f"OTHER BYTES: {row['what']} of {', '.join(row['others'])} are not those of {row['clips'][0]}")
    kept = gpu_overhead.tell(run["runs"]) if run["runs"] else True
    print(f"{len(run['pieces'])} commands, {len(failed)} failed; {len(run['same'])} groups of clips, "
          f"{len(others)} with other bytes")
    return max([p["rc"] for p in failed] + [0 if kept and not others else 1])


if __name__ == "__main__":
    sys.exit(main())
