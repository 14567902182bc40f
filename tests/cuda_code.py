#!/usr/bin/env python3
"""cuda_code.py LIBRARY FILES TARGET...: every CUDA file of the library (FILES of them) has machine
code for each of these devices (80, 90a, ...) and PTX for 8.0; prints how many bytes.

NVIDIA's cuobjdump is not needed: the section .nv_fatbin is a row of containers, each with a header
(magic, version, size of the header, bytes behind it) and entries in it, each with its kind (PTX or
ELF), size of its header, bytes behind it, and architecture."""
import collections
import struct
import sys

MAGIC, PTX, ELF = 0xBA55ED50, 1, 2


def section(data, wanted):
    """The bytes of a section of a 64-bit ELF file."""
    table, = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<3H", data, 58)
    rows = [struct.unpack_from("<2I4Q", data, table + i * size) for i in range(count)]
    at = rows[names][4]
    for name, _, _, _, offset, length in rows:
        if data[at + name:data.index(b"\0", at + name)] == wanted:
            return data[offset:offset + length]
    sys.exit("there is no section " + wanted.decode())


def entries(code):
    """(kind, architecture, bytes) of everything in the containers."""
    at = 0
    while at + 16 <= len(code):
        magic, _, header, length = struct.unpack_from("<IHHQ", code, at)
        if magic != MAGIC:
            at += 8  # between containers
            continue
        one, end = at + header, at + header + length
        while one < end:
            kind, _, header, length = struct.unpack_from("<HHIQ", code, one)
            yield kind, struct.unpack_from("<I", code, one + 28)[0], length
            one += header + length
        at = end


def main():
    path, files, targets = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    with open(path, "rb") as f:
        data = f.read()
    found, size = collections.Counter(), collections.Counter()
    for kind, target, length in entries(section(data, b".nv_fatbin")):
        found[kind, target] += 1
        size[kind, target] += length
    status = 0
    for kind, target in sorted(found):
        print("%s %d: %d files, %d bytes" % ("PTX for" if kind == PTX else "sm_", target, found[kind, target],
                                             size[kind, target]))
    for want in [(PTX, 80)] + [(ELF, int(t.rstrip("af"))) for t in targets]:
        if found[want] < files:
            print("%s: expected code of %d files for %d, found %d" % (path, files, want[1], found[want]))
            status = 1
    print("whole: %d bytes" % len(data))
    sys.exit(status)


main()
