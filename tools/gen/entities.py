#!/usr/bin/python3
"""Writes src/text/entities_table.h: the named character references of the HTML standard.

    /usr/bin/python3 tools/gen/entities.py > src/text/entities_table.h

Python's html.entities.html5 holds the standard's list (2,231 names: 2,125 that end in a
semicolon, 106 of which may also stand without it). One row per name, sorted by bytes:
name without its semicolon, one or two code points, and whether the semicolon may be missing.
"""
from html.entities import html5

HEAD = """\
/* entities_table.h: written by tools/gen/entities.py; do not edit. The 2,125 names of the
 * HTML standard, sorted by bytes. */
#ifndef OVI_TEXT_ENTITIES_TABLE_H
#define OVI_TEXT_ENTITIES_TABLE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct entity {
    const char *name; /* without & and ; */
    uint32_t rune[2]; /* the second is 0 if there is one only */
    bool bare;        /* may stand without its semicolon */
} entity;

static const entity entities[] = {"""
TAIL = """\
};
#endif"""


def rows():
    for name in sorted(n[:-1] for n in html5 if n.endswith(";")):
        points = [ord(c) for c in html5[name + ";"]] + [0]
        yield '{"%s",{0x%x,0x%x},%d},' % (name, points[0], points[1], name in html5)


def main():
    print(HEAD)
    line = ""
    for row in rows():
        if len(line) + len(row) > 90:
            print(line)
            line = ""
        line += row
    print(line)
    print(TAIL)


main()
