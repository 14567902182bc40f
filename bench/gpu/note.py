"""note.py FOLDER NAME RC START COMMAND...: adds the row of a piece that just ended to
FOLDER/pieces.jsonl and tells it, of a failure with the last that it said."""
import json
import os
import sys
import time


def lines_of(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def main():
    folder, name, rc, start = sys.argv[1:5]
    at = os.path.join(folder, name)
    row = {"name": name, "rc": int(rc), "wall_s": time.time() - float(start), "command": sys.argv[5:]}
    used = [int(x) for x in lines_of(at + ".used") if x.strip().isdigit()]
    before = [int(x) for x in lines_of(at + ".before") if x.strip().isdigit()]
    if before:
        row["before_mib"] = before[0]
        row["most_mib"] = max(used + before)
    with open(os.path.join(folder, "pieces.jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    told = [f"== {name}: exit {rc}, {row['wall_s']:.1f} s"]
    if row["rc"] != 0:
        said = lines_of(at + ".out") + lines_of(at + ".err")
        wrong = [x for x in said if any(word in x for word in ("fail", "FAIL", "rror", "expected", "SUMMARY"))]
        told += ["   " + x[:240] for x in (wrong or said)[-6:]]
    print("\n".join(told), flush=True)


main()
