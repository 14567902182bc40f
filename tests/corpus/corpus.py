"""What bad inputs are made of: the row of the table, and small writers of good files.

Everything here is deterministic and needs nothing but the standard library.
"""
import io
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import Callable, Optional, Union


@dataclass
class Bad:
    """One bad input. `content` is its bytes, or a function that puts it at a path. `says` is a
    pattern that the one line on stderr must match besides the file's name."""
    name: str
    content: Union[bytes, Callable[[str], None]]
    says: str = ""
    command: Optional[list] = None  # instead of the kind's
    nameless: bool = False          # the message need not name the file: it is no file
    lines: int = 1                  # how many lines the message may have
    code: int = 1
    good: bool = False              # the control: this one must succeed
    keeps: str = ""                 # finished work that stays: a pattern of its name


def cuts(data, places, name, says, **more):
    """The file cut at each of the places."""
    return [Bad(f"{name}_cut_at_{n}", data[:n], says, **more)
            for n in sorted(set(places)) if 0 <= n < len(data)]


# ---- safetensors ----

def tensor(begin, end, shape=None, dtype="F32"):
    return {"dtype": dtype, "shape": shape if shape is not None else [(end - begin) // 4],
            "data_offsets": [begin, end]}


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


# ---- torch archives ----

def torch_zip(pickle, records=(), root="archive", method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, data in [(f"{root}/data.pkl", pickle)] + list(records):
            z.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, method)
    return out.getvalue()


def text(s):
    b = s if isinstance(s, bytes) else s.encode()
    return b"X" + struct.pack("<I", len(b)) + b


def storage(key="0", count=b"K\x04", kind="FloatStorage", location="cpu"):
    return (b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text(location) +
            count + b"tQ")


def torch_tensor(store=None, offset=b"K\x00", size=b"K\x02K\x02\x86", stride=b"K\x02K\x01\x86"):
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + (store or storage()) + offset + size + stride +
            b"\x89ccollections\nOrderedDict\n)RtR")


def state_dict(*pairs):
    """A pickle of {name: value}; values are opcodes."""
    body = b"".join(text(name) + value for name, value in pairs)
    return b"\x80\x02}(" + body + b"u."


GOOD_RECORDS = [("archive/byteorder", b"little"), ("archive/data/0", struct.pack("<4f", 1, 2, 3, 4)),
                ("archive/version", b"3\n")]


def good_torch():
    return torch_zip(state_dict(("the.weight", torch_tensor())), GOOD_RECORDS)


# ---- pictures ----

def chunk(kind, data, crc=None, length=None):
    body = kind + data
    return (struct.pack(">I", len(data) if length is None else length) + body +
            struct.pack(">I", zlib.crc32(body) if crc is None else crc))


PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def ihdr(width, height, depth=8, colour=2, compression=0, filter_=0, interlace=0):
    return struct.pack(">IIBBBBB", width, height, depth, colour, compression, filter_, interlace)


def png(width=4, height=3, extra=(), header=None, pixels=None, **more):
    raw = b"".join(b"\0" + bytes((x * 40, y * 60, 128)[c] for x in range(width) for c in range(3))
                   for y in range(height)) if pixels is None else pixels
    return b"".join([PNG_MAGIC, chunk(b"IHDR", header or ihdr(width, height, **more)), *extra,
                     chunk(b"IDAT", zlib.compress(raw, 9)), chunk(b"IEND", b"")])


def bmp(width=4, height=3, bits=24, compression=0, size=None):
    row = (abs(width) * 3 + 3) // 4 * 4 if abs(width) < 1000 else 0
    pixels = b"\x40" * (row * min(abs(height), 1000))
    return (b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) +
            struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0,
                        0, 0) + pixels)


# ---- sound and clips ----

def wav(samples=4000, rate=16000, channels=1, bits=16, tag=1, data=None, data_size=None,
        riff_size=None, align=None):
    body = b"\0\x10" * samples if data is None else data
    align = channels * bits // 8 if align is None else align
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * align & 0xffffffff, align, bits)
    size = len(body) if data_size is None else data_size
    riff = 36 + len(body) if riff_size is None else riff_size
    return (b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + struct.pack("<I", 16) + fmt +
            b"data" + struct.pack("<I", size) + body)


def y4m(width=32, height=32, frames=2, header=None):
    head = header or f"YUV4MPEG2 W{width} H{height} F24:1 Ip A1:1 C444\n".encode()
    return head + (b"FRAME\n" + b"\x80" * (width * height * 3)) * frames


# ---- SentencePiece ----

def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field_bytes(number, data, length=None):
    return varint(number << 3 | 2) + varint(len(data) if length is None else length) + data


def field_int(number, value):
    return varint(number << 3) + varint(value)


def piece(word, score=-1.0, kind=None):
    body = field_bytes(1, word if isinstance(word, bytes) else word.encode())
    body += b"\x15" + struct.pack("<f", score)
    return field_bytes(1, body + (field_int(3, kind) if kind is not None else b""))


SPECIAL = [piece("<pad>", 0, 3), piece("</s>", 0, 3), piece("<unk>", 0, 2)]
WORDS = [piece(w, -i - 1.0) for i, w in enumerate(["\u2581", "a", "b", "c", "ab", "\u2581a"])]


def spm(pieces=None, trainer=b"", normalizer=b""):
    rows = SPECIAL + WORDS if pieces is None else pieces
    return b"".join(rows) + field_bytes(2, trainer or field_int(3, 1)) + (
        field_bytes(3, normalizer) if normalizer else b"")


def charsmap(units, replacements=b"x\0", trie_bytes=None):
    trie = b"".join(struct.pack("<I", u) for u in units)
    return struct.pack("<I", len(trie) if trie_bytes is None else trie_bytes) + trie + replacements


def tokenizer_json(**change):
    doc = {"model": {"type": "Unigram", "unk_id": 2, "byte_fallback": False,
                     "vocab": [["<pad>", 0], ["</s>", 0], ["<unk>", 0], ["\u2581", -1], ["a", -2],
                               ["b", -3], ["ab", -4]]},
           "added_tokens": [{"id": 0, "content": "<pad>"}, {"id": 1, "content": "</s>"}]}
    doc.update(change)
    return json.dumps(doc).encode()
