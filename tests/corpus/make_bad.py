"""The table of bad inputs: one function per kind of file yields its rows.

KINDS says for every kind how its files are called and which command meets them ({bad} is the
file, {models} the micro preset, {out} the output folder of the case). To add a kind, write its
function and one row in KINDS.
"""
import json
import os
import struct
import zipfile
import zlib

from bad_lists import bad_csv, bad_jsonl, bad_list_outputs, bad_prompt_files, bad_tsv, bad_yaml
from corpus import *

HERE = os.path.dirname(os.path.abspath(__file__))
HUGE = (1 << 63) - 1


def seed(name):
    with open(os.path.join(HERE, "seed", name), "rb") as f:
        return f.read()


# ---- safetensors ----

def good_safetensors():
    return safetensors({"__metadata__": {"format": "pt"}, "a.weight": tensor(0, 24, [2, 3]),
                        "b.bias": tensor(24, 32, [2])}, bytes(32))


def bad_headers():
    """name, header text or object, what the message says."""
    one = tensor(0, 8)
    deep = b"[" * 5000 + b"]" * 5000
    yield "not_json", b"{hello}", "bad JSON at byte"
    yield "unclosed", b'{"a":{"dtype":"F32"', "bad JSON at byte"
    yield "deep", b'{"a":' + deep + b"}", "bad JSON at byte"
    yield "not_utf8", b'{"a\xff":1}', "bad JSON at byte"
    yield "nul_name", b'{"a\\u0000b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "bad JSON"
    yield "trailing", b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} x', "bad JSON at byte"
    yield "number_overflow", b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}', "bad JSON"
    yield "duplicate_name", (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
                             b'"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'), "duplicate"
    yield "metadata_list", {"__metadata__": [1], "a": one}, "__metadata__ is not an object"
    yield "metadata_number", {"__metadata__": {"k": 7}, "a": one}, "__metadata__: k is not text"
    yield "tensor_is_number", {"a": 7}, "tensor a: expected an object"
    yield "no_dtype", {"a": {"shape": [2], "data_offsets": [0, 8]}}, "tensor a: expected a dtype"
    yield "dtype_number", {"a": dict(one, dtype=7)}, "tensor a: expected a dtype"
    yield "dtype_unknown", {"a": dict(one, dtype="F31")}, "tensor a: unknown dtype F31"
    yield "dtype_long", {"a": dict(one, dtype="F" * 100000)}, "tensor a: unknown dtype FFF"
    yield "no_shape", {"a": {"dtype": "F32", "data_offsets": [0, 8]}}, "tensor a: expected a shape"
    yield "shape_text", {"a": dict(one, shape="2")}, "tensor a: expected a shape"
    yield "shape_negative", {"a": dict(one, shape=[-2])}, "dimension 0 is not a whole number"
    yield "shape_float", {"a": dict(one, shape=[2.5])}, "dimension 0 is not a whole number"
    yield "shape_null", {"a": dict(one, shape=[2, None])}, "dimension 1 is not a whole number"
    yield "shape_rank", {"a": dict(one, shape=[1] * 9)}, "rank at most 8, found 9"
    yield "shape_overflow", {"a": dict(one, shape=[1 << 40, 1 << 40])}, "dimensions is too large"
    yield "shape_bytes_overflow", {"a": dict(one, shape=[HUGE])}, "dimensions is too large"
    yield "shape_wrong", {"a": dict(one, shape=[3])}, "expected 12 bytes by shape and dtype, found 8"
    yield "shape_zero", {"a": dict(one, shape=[0])}, "expected 0 bytes by shape and dtype, found 8"
    yield "no_offsets", {"a": {"dtype": "F32", "shape": [2]}}, "expected data_offsets of two"
    yield "offsets_one", {"a": dict(one, data_offsets=[0])}, "expected data_offsets of two"
    yield "offsets_three", {"a": dict(one, data_offsets=[0, 8, 16])}, "expected data_offsets of two"
    yield "offsets_text", {"a": dict(one, data_offsets=["0", "8"])}, "expected data_offsets of two"
    yield "offsets_negative", {"a": dict(one, data_offsets=[-8, 0])}, r"found \[-8, 0\]"
    yield "offsets_reversed", {"a": dict(one, data_offsets=[8, 0])}, r"found \[8, 0\]"
    yield "offsets_outside", {"a": dict(one, data_offsets=[12, 20])}, "within the 16 bytes of data"
    yield "offsets_huge", {"a": dict(one, data_offsets=[HUGE - 8, HUGE])}, "within the 16 bytes"
    yield "overlap", {"a": one, "b": tensor(4, 12)}, "tensors a and b overlap"
    yield "same_place", {"a": one, "b": one}, "tensors (a and b|b and a) overlap"
    yield "inside", {"a": tensor(0, 16), "b": tensor(4, 8)}, "tensors a and b overlap"
    yield "name_with_newline", {"a\nb": one}, "control character"
    yield "name_with_escape", {"\x1b[2Jb": one}, "control character"
    yield "name_long", {"n" * 1000000: tensor(0, 12)}, "name of at most 512 bytes, found 1000000"


def bad_safetensors():
    good = good_safetensors()
    start = 8 + struct.unpack("<Q", good[:8])[0]
    yield Bad("good", good, good=True)
    yield from cuts(good, [0, 1, 7, 8], "st", "found [0-9]+ bytes")
    yield from cuts(good, [9, 40, start - 1], "st", "expected a header of at most")
    yield from cuts(good, [start, start + 1, start + 23, start + 24, start + 31], "st",
                    "tensor [ab].[a-z]+: expected data_offsets within the [0-9]+ bytes")
    for name, length in [("max", (1 << 64) - 1), ("signed", 1 << 63), ("100_mb", 100000001),
                         ("past_end", len(good) - 5)]:
        yield Bad(f"length_{name}", safetensors(b"{}", good[8:], length),
                  f"expected a header of at most [0-9]+ bytes, found {length}")
    for length in (0, 1, 2):
        yield Bad(f"length_{length}", safetensors(b"{}x", b"", length) if length != 2 else
                  safetensors(b"{ ", b"}" * 9, 2), "bad JSON at byte")
    for name, header, says in bad_headers():
        yield Bad(name, safetensors(header, bytes(16)), says)
    yield Bad("other_file", b"#!/bin/sh\nrm -rf /\n", "found 19 bytes of something else")
    yield Bad("folder", os.mkdir, "expected a file or folder of weights|no weights|found a folder",)
    yield Bad("missing", lambda path: None, "No such file")
    yield Bad("pipe", os.mkfifo, "expected a file, found something else")
    yield Bad("device", lambda path: os.symlink("/dev/zero", path), "expected a file, found something else")
    yield Bad("endless_link", lambda path: os.symlink(path, path), "Too many levels")
    yield Bad("sparse_100_gb", sparse(100 << 30), "expected|something else")


def sparse(size, head=b""):
    def put(path):
        with open(path, "wb") as f:
            f.write(head)
            f.truncate(size)
    return put


# ---- index of shards ----

def shards(weight_map, more=None, **files):
    """An index beside shards."""
    def put(path):
        with open(path, "w") as f:
            json.dump(dict({"metadata": {}, "weight_map": weight_map}, **(more or {})), f)
        for name, data in files.items():
            with open(os.path.join(os.path.dirname(path), name + ".safetensors"), "wb") as f:
                f.write(data)
    return put


def bad_index():
    a = safetensors({"a": tensor(0, 8)}, bytes(8))
    b = safetensors({"a": tensor(0, 8), "b": tensor(8, 16)}, bytes(16))
    yield Bad("good", shards({"a": "one.safetensors"}, one=a), good=True)
    yield Bad("no_map", b'{"metadata":{}}', "expected an index of shards with a weight_map")
    yield Bad("map_list", b'{"weight_map":[]}', "expected an index of shards with a weight_map")
    yield Bad("cut", b'{"weight_map":{"a":"one.safe', "bad JSON at byte")
    yield Bad("array", b'[1]', "something else")
    yield Bad("file_number", shards({"a": 7}), "weight_map: a has no file name")
    for name, trick in [("parent", "../one.safetensors"), ("root", "/etc/passwd"), ("empty", ""),
                        ("below", "x/one.safetensors")]:
        yield Bad(f"path_{name}", shards({"a": trick}), "expected the name of a file beside it")
    yield Bad("dotdot", shards({"a": ".."}), "expected the name of a file")
    yield Bad("shard_missing", shards({"a": "one.safetensors"}), "one.safetensors: cannot open", nameless=True)
    yield Bad("shard_cut", shards({"a": "one.safetensors"}, one=a[:-1]),
              "one.safetensors: tensor a: expected data_offsets within", nameless=True)
    yield Bad("shard_lacks_tensor", shards({"z": "one.safetensors"}, one=a), "expected tensor z, which")
    yield Bad("tensor_in_two_shards", shards({"a": "one.safetensors", "b": "two.safetensors"}, one=a, two=b),
              "tensor a is there twice", nameless=True)
    yield Bad("names_itself", shards({"a": "input.safetensors.index.json"}), "header of at most|expected")


# ---- torch ----

def zip_places(data):
    """Where the parts of a zip begin, and one byte later."""
    places = [0, 1, 2, 3, 4, 21, 29]
    for magic in (b"PK\3\4", b"PK\1\2", b"PK\5\6"):
        at = data.find(magic)
        while at >= 0:
            places += [at, at + 20, at + 30]
            at = data.find(magic, at + 1)
    return places + [len(data) - 1]


def patched(data, at, new):
    return data[:at] + new + data[at + len(new):]


def bad_zips():
    good = good_torch()
    end, first = good.find(b"PK\5\6"), good.find(b"PK\1\2")
    yield "end_count", patched(good, end + 10, struct.pack("<H", 9)), "truncated: the directory"
    yield "end_count_zip64", patched(good, end + 10, b"\xff\xff"), "no zip64 locator"
    yield "end_size", patched(good, end + 12, struct.pack("<I", 1 << 30)), "directory lies outside"
    yield "end_offset", patched(good, end + 16, struct.pack("<I", 1 << 30)), "directory lies outside"
    yield "end_offset_zip64", patched(good, end + 16, b"\xff" * 4), "no zip64 locator"
    yield "end_comment", good[:end + 20] + b"\x07\0", "no end record"
    yield "locator_outside", (good[:end] + b"PK\6\7" + struct.pack("<IQI", 0, HUGE, 1) +
                              patched(good[end:], 16, b"\xff" * 4)), "no zip64 end record"
    yield "entry_magic", patched(good, first, b"PK\1\3"), "directory is cut"
    yield "entry_name_length", patched(good, first + 28, b"\xff\xff"), "directory is cut"
    yield "entry_size", patched(good, first + 20, struct.pack("<II", 1 << 30, 1 << 30)), "record lies outside"
    yield "entry_size_zip64", patched(good, first + 20, b"\xff" * 8), "zip64 field is missing"
    yield "entry_offset", patched(good, first + 42, struct.pack("<I", 1 << 30)), "header lies outside"
    yield "entry_encrypted", patched(good, first + 8, b"\x01\x08"), "data.pkl is compressed or encrypted"
    yield "deflated", torch_zip(state_dict(), GOOD_RECORDS, method=zipfile.ZIP_DEFLATED), "compressed"
    yield "bomb", torch_zip(b"\0" * (1 << 26), [], method=zipfile.ZIP_DEFLATED), "data.pkl is compressed"
    second = good.find(b"PK\1\2", first + 1)
    yield "overlap", patched(good, second + 42, good[first + 42:first + 46]), "overlap|lies outside"
    name = good.find(b"archive/data/0", second)
    yield "twice", patched(good, name, b"archive/version"[:14]), "there twice|expected a record"
    for trick in ("../../etc/passwd", "/etc/passwd", "a/../../b"):
        yield "no_pickle_" + str(len(trick)), torch_zip(b"", [(trick, b"x")], root="x").replace(
            b"x/data.pkl", b"x/data.plk"), "no data.pkl"
    yield "two_roots", torch_zip(state_dict(), [("other/data.pkl", state_dict())]), "two|data.pkl"
    yield "big_endian", torch_zip(state_dict(("w", torch_tensor())), [("archive/byteorder", b"big")]), \
        "byte order little"
    yield "pickle_17_mb", torch_zip(b"\x80\x02" + b"N0" * (1 << 23) + b"N."), "expected at most 16777216"
    yield "empty_zip", b"PK\5\6" + bytes(18), "no data.pkl"
    yield "legacy", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "legacy torch file"


def bad_pickles():
    """name, opcodes of a whole pickle, what the message says."""
    p = b"\x80\x02"
    call = lambda module, name: p + f"c{module}\n{name}\n".encode() + text("touch pwned") + b"\x85R."
    for module, name in [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"),
                         ("__builtin__", "open"), ("subprocess", "Popen"), ("sys", "exit"),
                         ("torch.hub", "load"), ("torch", "load"), ("pickle", "loads"), ("", ""),
                         ("collections", "Counter"), ("numpy.core.multiarray", "_reconstruct"),
                         ("torch._utils", "_rebuild_tensor_v2x"), ("my.module", "MyModel")]:
        yield f"calls_{module}_{name}".replace(".", "_"), call(module, name), f"refused {module}.{name}:"
    yield "escape_in_name", call("\x1b[2J", "x"), r"refused \?\[2J.x"
    yield "name_1_mb", p + b"c" + b"m" * 1000000 + b"\nx\n.", "refused m{80}"
    yield "no_newline", p + b"cos", "ends early"
    for op, name in [(b"i", "inst"), (b"o", "obj"), (b"\x81", "newobj"), (b"\x82\x01", "ext1"),
                     (b"\x93", "stack_global"), (b"P1\n", "persid_text"), (b"S'x'\n", "string"),
                     (b"\x8b\xff\xff\xff\x7f", "long4"), (b"B\xff\xff\xff\xff", "binbytes"),
                     (b"\x8e" + b"\xff" * 8, "binbytes8"), (b"\x95" + b"\xff" * 8, "frame")]:
        yield f"opcode_{name}", p + b"(" + op + b".", "opcode 0x[0-9a-f]{2} is not read here"
    for version in (0, 1, 3, 4, 5, 255):
        yield f"protocol_{version}", b"\x80" + bytes([version]) + b"}.", f"found protocol {version}"
    yield "no_stop", p + b"}", "ends early"
    yield "empty", b"", "ends early"
    yield "only_stop", b".", "stack underflow"
    yield "no_mark", p + b"t.", "stack underflow: no mark"
    yield "left_over", p + b"}}.", "left on the stack"
    yield "tuple3_of_one", p + b"K\x01\x87.", "stack underflow"
    yield "memo_unknown", p + b"h\x07.", "unknown memo index"
    yield "memo_huge", p + b"}r\xff\xff\xff\xff.", "memo index beyond"
    yield "long_255", p + b"\x8a\xff" + b"\1" * 255 + b".", "more than 64 bits"
    yield "text_4_gb", p + b"X\xff\xff\xff\xff.", "ends early"
    yield "text_not_utf8", p + text(b"\xc3\x28") + b".", "not UTF-8"
    yield "text_nul", p + text(b"a\0b") + b".", "not UTF-8"
    yield "key_list", p + b"}]K\x01s.", "key that is neither"
    yield "odd_items", p + b"}(K\x01u.", "key without a value"
    yield "item_of_number", p + b"K\x01K\x02K\x03s.", "not a container"
    yield "cycle", p + b"}q\0" + text("x") + b"h\0s.", "cycle"
    yield "cycle_list", p + b"]q\0h\0a.", "cycle"
    yield "deep", p + b"(" * 2000 + b"t" * 2000 + b".", "nested more than"
    yield "deep_lists", p + b"]" * 500 + b"a" * 499 + b".", "nested more than"
    laughs = b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(30))
    yield "billion_laughs", p + b"(]q\0" + laughs + b"t.", "too many objects"
    yield "name_600", state_dict(("n" * 600, torch_tensor())), "name of more than 512"
    yield "name_newline", state_dict(("a\nb", torch_tensor())), "control character"
    yield "same_name", p + b"}(" + text("a") + torch_tensor() + text("a") + torch_tensor() + b"u.", \
        "tensor a is there twice"
    yield "joined_name", p + b"}(" + text("a.b") + torch_tensor() + text("a") + b"}" + text("b") + \
        torch_tensor() + b"su.", "tensor a.b is there twice"
    yield "no_tensors", p + b"K\x01.", "expected tensors"
    for name, value, says in bad_tensors():
        yield name, state_dict(("w", value)), says


def bad_tensors():
    big = b"\x8a\x08" + struct.pack("<q", HUGE)
    minus = b"J\xff\xff\xff\xff"
    yield "record_missing", torch_tensor(storage("7")), "expected a record data/7"
    yield "record_path", torch_tensor(storage("../data.pkl")), r"expected a record data/\.\./data.pkl"
    yield "record_name_long", torch_tensor(storage("k" * 100000)), "expected a record data/kkk"
    yield "storage_short", torch_tensor(storage(count=b"K\x05")), "expected 5 elements of F32, found 16"
    yield "storage_huge", torch_tensor(storage(count=big)), "expected 9223372036854775807 elements"
    yield "storage_negative", torch_tensor(storage(count=minus)), "persistent id that is not a storage"
    yield "storage_type", torch_tensor(storage(kind="QUInt8Storage")), "refused torch.QUInt8Storage"
    yield "size_too_large", torch_tensor(size=b"K\x03K\x02\x86"), "beyond its storage"
    yield "size_overflow", torch_tensor(size=big + big + b"\x86"), "too large"
    yield "size_negative", torch_tensor(size=minus + b"K\x02\x86"), "tensor w: a negative size"
    yield "stride_negative", torch_tensor(stride=minus + b"K\x01\x86"), "tensor w: a negative size or stride"
    yield "stride_huge", torch_tensor(stride=big + b"K\x01\x86"), "beyond its storage"
    yield "rank_differs", torch_tensor(stride=b"K\x01\x85"), "differ in rank"
    yield "rank_9", torch_tensor(size=b"(" + b"K\x01" * 9 + b"t", stride=b"(" + b"K\x01" * 9 + b"t"), "rank at most 8"
    yield "offset_negative", torch_tensor(offset=minus), "negative offset"
    yield "offset_outside", torch_tensor(offset=b"K\x01"), "beyond its storage"
    yield "offset_huge", torch_tensor(offset=big), "beyond its storage"
    yield "size_float", torch_tensor(size=b"G" + bytes(8) + b"K\x02\x86"), "arguments of the wrong types"


def bad_torch():
    good = good_torch()
    yield Bad("good", good, good=True)
    yield from cuts(good, zip_places(good), "zip", "truncated|found [0-9]+ bytes of something else")
    yield from (Bad(f"zip_{name}", data, says) for name, data, says in bad_zips())
    for name, pickle, says in bad_pickles():
        yield Bad(name, torch_zip(pickle, GOOD_RECORDS), says)
    whole = state_dict(("the.weight", torch_tensor()))
    for n in range(3, len(whole), 17):
        yield Bad(f"pickle_cut_at_{n}", torch_zip(whole[:n], GOOD_RECORDS), "data.pkl: .* at byte")


# ---- weights that do not fit their model ----

MODELS = {"fusion": "fusion model", "text-encoder": "text encoder", "video-vae": "video VAE",
          "audio-vae": "audio VAE", "vocoder": "vocoder"}
SIZES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8, "I64": 8, "F8_E4M3": 1}


def sparse_model(tensors, *values):
    """A safetensors file of these (name, dtype, shape), all zeros but for values at the start of some
    tensors: (name, bytes)."""
    header, at, spots = {}, 0, []
    for name, dtype, shape in tensors:
        size = SIZES[dtype]
        for n in shape:
            size *= n
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        spots += [(at, v) for n, v in values if n == name]
        at += size
    text_ = json.dumps(header).encode()
    text_ += b" " * (-len(text_) % 8)

    def put(path):
        with open(path, "wb") as f:
            f.write(struct.pack("<Q", len(text_)) + text_)
            f.truncate(8 + len(text_) + at)
            for spot, value in spots:
                f.seek(8 + len(text_) + spot)
                f.write(value)
    return put


def bad_weights(micro):
    for option, model in MODELS.items():
        tensors = micro.tensors[option]
        first = 2 if option == "audio-vae" else 0  # after the statistics, which may be absent
        name, dtype, shape = tensors[first]
        short = name.removeprefix("generator.")
        others = tensors[:first] + tensors[first + 1:]
        use = ["plan", "--models", "{models}", "--" + option, "{bad}"]
        ones = ("data_std", struct.pack("<80f", *[1] * 80))
        yield Bad(f"{option}_zeros", sparse_model(tensors, ones), command=use, good=True)
        yield Bad(f"{option}_lacks_one", sparse_model(others), f"{model}: .*missing {short}", use)
        yield Bad(f"{option}_one_more", sparse_model(tensors + [("evil.weight", "F32", [3])]),
                  f"{model}: .*unexpected evil.weight", use)
        yield Bad(f"{option}_shape", sparse_model(others + [(name, dtype, shape[:-1] + [shape[-1] + 1])]),
                  f"{short}: expected .*, found", use)
        yield Bad(f"{option}_rank", sparse_model(others + [(name, dtype, shape + [1, 1])]),
                  f"{short}: expected .*, found", use)
        yield Bad(f"{option}_integers", sparse_model(others + [(name, "I64", shape)]),
                  f"{short}: expected numbers with a fraction, found I64", use)
        yield Bad(f"{option}_empty", safetensors({}), f"{model}: .*expected tensors, found none", use)
        yield Bad(f"{option}_folder", os.mkdir, "found a folder", use)
        yield Bad(f"{option}_missing", lambda path: None, "No such file", use)
    other = ["plan", "--models", "{models}", "--vocoder", "{bad}"]
    yield Bad("vocoder_is_a_tokenizer", micro.read("Wan2.2-TI2V-5B/google/umt5-xxl/spiece.model"),
              "something else", other)


NOT_NUMBERS = {"F32": [("nan", b"\0\0\xc0\x7f"), ("inf", b"\0\0\x80\x7f"), ("minus_inf", b"\0\0\x80\xff")],
               "BF16": [("nan", b"\xc0\x7f"), ("inf", b"\x80\x7f"), ("minus_inf", b"\x80\xff")]}


def bad_values(micro):
    """NaN and infinity in a weight of every model, in every way a weight is placed."""
    spots = {"text-encoder": ["blocks.0.attn.q.weight", "blocks.1.norm2.weight", "token_embedding.weight"],
             "fusion": ["video_model.blocks.0.ffn.0.weight", "audio_model.blocks.1.self_attn.norm_k.weight",
                        "audio_model.patch_embedding.2.w1.weight", "video_model.head.modulation"],
             "video-vae": ["conv2.weight", "decoder.middle.1.norm.gamma", "decoder.head.2.bias"],
             "audio-vae": ["decoder.conv_in.weight", "decoder.mid.attn_1.qkv.weight"],
             "vocoder": ["generator.conv_pre.weight_v", "generator.conv_post.weight_g", "generator.conv_pre.bias",
                         "generator.resblocks.0.activations.0.act.alpha"]}
    for option, names in spots.items():
        tensors = micro.tensors[option]
        types = {t[0]: t[1] for t in tensors}
        for i, name in enumerate(names):
            word, value = NOT_NUMBERS[types[name]][i % 3]
            use = ["generate", "x", "--quiet", "--threads", "1", "--steps", "1", "--models", "{models}",
                   "--" + option, "{bad}", "-o", "{out}/x.y4m"]
            if option in ("audio-vae", "vocoder", "video-vae"):
                use = ["decode", "{latents}", "--quiet", "--threads", "1", "--models", "{models}",
                       "--" + option, "{bad}", "-o", "{out}/x.y4m"]
            if name == "token_embedding.weight":
                value = value * 64 * 768  # whichever row is read
            yield Bad(f"{option}_{word}_in_{name}", sparse_model(tensors, ("data_std", struct.pack("<80f", *[1] * 80)), (name, value)),
                      f"{name}: value [0-9]+ is (NaN|infinite)", use)


# ---- tokenizers ----

def spm_places(data):
    """Ends of the fields at the top, and the middle of each."""
    at, places = 0, []
    while at < len(data):
        begin = at
        at += 1
        length = shift = 0
        while True:
            length |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if data[at - 1] < 128:
                break
        places += [begin + 1, at, at + length // 2]
        at += length
    return places


def bad_spm(micro):
    good = micro.read("Wan2.2-TI2V-5B/google/umt5-xxl/spiece.model")
    places = spm_places(good)
    yield Bad("good", good, good=True)
    yield Bad("small_good", spm(), good=True)
    yield from cuts(good, places[:9] + places[9:-9:211] + places[-9:], "spm",
                    "cut short|empty file|expected|damaged")
    yield Bad("varint_11_bytes", b"\x0a" + b"\x80" * 10 + b"\x01", "cut short, or another kind")
    yield Bad("piece_4_gb", b"\x0a" + varint(1 << 32) + b"x", "cut short")
    yield Bad("piece_2_63", b"\x0a" + varint(HUGE) + b"x", "cut short")
    yield Bad("group", b"\x0b\x0c", "cut short, or another kind")
    yield Bad("inner_length", field_bytes(1, b"\x0a\x7fx"), "a piece is cut short")
    for kind in (0, 7, 1 << 40):
        yield Bad(f"type_{kind}", spm(SPECIAL + [piece("a", 0, kind)]), "no known type")
    for name, score in (("nan", float("nan")), ("inf", float("inf"))):
        yield Bad(f"score_{name}", spm(SPECIAL + [piece("a", score)]), "piece 3: .*finite score")
    yield Bad("piece_empty", spm(SPECIAL + [piece("", -1)]), "piece 3: expected 1 to 4096 bytes")
    yield Bad("piece_5000", spm(SPECIAL + [piece("a" * 5000)]), "piece 3: expected 1 to 4096 bytes")
    yield Bad("piece_not_utf8", spm(SPECIAL + [piece(b"\xff\xfe")]), "piece 3: expected .* UTF-8")
    yield Bad("twice", spm(SPECIAL + WORDS + WORDS[:1]), "pieces 3 and 9 are the same")
    yield Bad("no_unk", spm(SPECIAL[:2] + WORDS), "expected pieces with <unk> and </s>")
    yield Bad("no_eos", spm(SPECIAL[2:] + WORDS), "expected pieces with <unk> and </s>")
    yield Bad("no_words", spm(SPECIAL), "expected pieces with")
    yield Bad("bpe", spm(trainer=field_int(3, 2)), "expected a unigram model .* found model type 2")
    yield Bad("suffix", spm(trainer=field_int(3, 1) + field_int(24, 1)), "suffix 1")
    yield Bad("byte_fallback", spm(trainer=field_int(3, 1) + field_int(35, 1)), "without a piece <0x00>")
    yield Bad("trainer_cut", spm(trainer=b"\x18"), "trainer's settings are cut")
    yield Bad("normalizer_cut", spm(normalizer=b"\x12\x7f"), "normalizer's settings are cut")
    for name, blob, says in bad_charsmaps():
        yield Bad(f"charsmap_{name}", spm(normalizer=field_bytes(2, blob)), says)
    yield Bad("more_pieces_than_vocabulary", spm(SPECIAL + [piece(f"w{i}") for i in range(1000)]),
              "tokenizer: .*expected at most 768 pieces, found 1003")
    yield Bad("pieces_300_mb", sparse(300 << 20, b"\x0a"), "expected at most 100000000 bytes")


def node(label, base=0, value=False):
    """A unit of the double array whose children stand at its index ^ base."""
    return label | (0x100 if value else 0) | base << 10


def bad_charsmaps():
    damaged = "damaged character map"
    yield "3_bytes", b"\1\0\0", damaged
    yield "trie_odd", charsmap([0], trie_bytes=3), damaged
    yield "trie_empty", charsmap([]), damaged
    yield "trie_4_gb", charsmap([0], trie_bytes=0xfffffffc), damaged
    yield "no_replacements", charsmap([0], b""), damaged
    yield "no_end", charsmap([0], b"x"), damaged
    units = [0] * 256
    units[0] = node(0, 1)
    units[1 ^ 97] = node(97, 7, True)          # 'a' has a value at (1 ^ 97) ^ 7
    units[(1 ^ 97) ^ 7] = 1 << 31 | 1000000    # far beyond the replacements
    yield "value_outside", charsmap(units), damaged
    units[(1 ^ 97) ^ 7] = 0                    # a node, not a value
    yield "value_is_node", charsmap(units), damaged
    units[1 ^ 97] = node(97, 0x1fffff, True)
    yield "children_outside", charsmap(units), damaged
    units[1 ^ 97] = node(97, 97)               # its children are those of the root again
    yield "cycle", charsmap(units), damaged
    ok = [0] * 256
    ok[0] = node(0, 1)
    ok[1 ^ 97] = node(97, 7, True)
    ok[(1 ^ 97) ^ 7] = 1 << 31
    yield "replacement_not_utf8", charsmap(ok, b"\xff\0"), damaged


def bad_tokenizer_json():
    good = tokenizer_json()
    model = json.loads(good)["model"]
    yield Bad("good", good, good=True)
    yield from cuts(good, range(2, len(good), 60), "json", "line 1: |something|expected|cut short")
    for name, change, says in [
            ("no_model", {"model": None}, "expected a Unigram model"),
            ("bpe", {"model": dict(model, type="BPE")}, "expected a Unigram model .*found BPE"),
            ("vocab_object", {"model": dict(model, vocab={})}, "expected a Unigram model"),
            ("vocab_empty", {"model": dict(model, vocab=[])}, "added_tokens with ids|expected pieces"),
            ("vocab_row", {"model": dict(model, vocab=[["a"]])}, r"rows \[text, score\]"),
            ("vocab_score", {"model": dict(model, vocab=[["a", "b"]])}, r"rows \[text, score\]"),
            ("vocab_huge_score", {"model": dict(model, vocab=[["a", 1e300]])}, "finite score"),
            ("unk_outside", {"model": dict(model, unk_id=99)}, "expected pieces with <unk>"),
            ("added_outside", {"added_tokens": [{"id": 99, "content": "x"}]}, "added_tokens with ids"),
            ("added_negative", {"added_tokens": [{"id": -1, "content": "x"}]}, "added_tokens with ids"),
            ("charsmap_base64", {"normalizer": {"precompiled_charsmap": "!!!"}}, "base64"),
            ("charsmap_short", {"normalizer": {"precompiled_charsmap": "AAAA"}}, "damaged character map")]:
        yield Bad(name, tokenizer_json(**change), says)
    yield Bad("nul", b'{"model":\0}', "line 1")
    yield Bad("deep", b'{"model":' + b"[" * 4000, "line 1")
    yield Bad("not_utf8", b'{"model":"\xff"}', "line 1")


# ---- latents and interrupted runs ----

def bad_record(good, kind):
    """What holds for every file that record.c reads."""
    start = 8 + struct.unpack("<Q", good[:8])[0]
    yield from cuts(good, [0, 4, 8, 9, start // 2, start - 1, start, start + 4, len(good) - 1], kind,
                    "found|expected|cannot")
    for at in range(start, len(good), max(1, (len(good) - start) // 6)):
        yield Bad(f"bit_{at - start}", patched(good, at, bytes([good[at] ^ 4])), "expected checksum .*damaged")
    at = good.index(b"portable")
    yield Bad("request_changed", patched(good, at, b"Portable"), "header: expected checksum")
    at = good.index(b"header.crc32")
    yield Bad("no_seal", patched(good, at, b"header.crc23"), "expected a checksum of the header")
    yield Bad("one_tensor_more", patched(good, 0, good[:0]) and with_header(good, lambda h: h.update(
        zz=dict(h["audio"], shape=[0], data_offsets=[0, 0]))), "checksum")


def with_header(data, change):
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    change(header)
    return safetensors(header, data[8 + n:])


def bad_latents(micro):
    yield Bad("good", micro.latents, good=True)
    yield from bad_record(micro.latents, "latents")
    def other(name, says, data=None, **tensors):
        """Without checksums, as other programs write latents."""
        at, header = 0, {}
        for key, (dtype, shape) in tensors.items():
            size = SIZES[dtype]
            for n in shape:
                size *= n
            header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
            at += size
        return Bad(name, safetensors(header, bytes(at) if data is None else data), says)
    yield other("nothing", "expected a tensor `video` or `audio`", pixels=("F32", (2,)))
    yield other("video_rank", "video: expected rank 4, found 3", video=("F32", (48, 2, 2)))
    yield other("audio_rank", "audio: expected rank 2, found 1", audio=("F32", (20,)))
    yield other("video_rank_8", "video: expected F32 of rank", video=("F32", (1,) * 8))
    yield other("video_bf16", "video: expected F32 .*found BF16", video=("BF16", (48, 2, 2, 2)))
    yield other("video_empty", "video: axis 1 has 0 entries", video=("F32", (48, 0, 2, 2)))
    yield other("video_channels", "expected 48 video channels", video=("F32", (16, 2, 2, 2)))
    yield other("audio_channels", "expected 20 audio channels", audio=("F32", (7, 8)))
    yield other("video_nan", "video: value 7 is not finite", video=("F32", (48, 1, 2, 2)),
                data=bytes(28) + b"\0\0\xc0\x7f" + bytes(48 * 16 - 32))
    yield other("audio_inf", "audio: value 0 is not finite", audio=("F32", (7, 20)),
                data=b"\0\0\x80\x7f" + bytes(7 * 80 - 4))
    yield Bad("axis_2_20", sparse(8 + 256 + (1 << 24), safetensors(
        {"audio": tensor(0, 1 << 24, [1 << 22, 1])}, b"", None).ljust(8)), "audio: axis 0 has")
    yield Bad("is_torch", good_torch(), "expected a tensor `video` or `audio`")
    yield Bad("is_text", b"latents please", "something else")
    yield Bad("is_a_run", micro.resume, "expected|video")


def bad_resume(micro):
    good = micro.resume
    yield from bad_record(good, "resume")
    yield Bad("is_latents", micro.latents, "interrupted run")
    yield Bad("is_torch", good_torch(), "interrupted run")
    yield Bad("no_format", with_header(good, lambda h: h["__metadata__"].pop("format")), "interrupted run")
    yield Bad("is_missing", lambda path: None, "No such file")


# ---- ovi.json ----

def bad_ovi_json(micro):
    raw = micro.read("ovi.json").decode()
    good = json.loads(raw)
    dump = lambda doc: json.dumps(doc).encode()
    yield Bad("good", raw.encode(), good=True)
    yield from cuts(raw.encode(), range(0, len(raw), 150), "ovi_json", "line [0-9]+: ")
    for key in good:
        if key != "name":
            yield Bad(f"without_{key}", dump({k: v for k, v in good.items() if k != key}), f"{key}")
    for key in ("text", "video", "audio", "video_vae", "audio_vae", "vocoder", "files"):
        yield Bad(f"{key}_is_list", dump(dict(good, **{key: [1]})), f"{key} must be an object")
    for key, value, says in [
            ("format", 2, "format must be 1"), ("prompt_format", "xml", "prompt_format must be"),
            ("default_size", [32], "default_size"), ("default_size", [1 << 20, 32], "default_size"),
            ("default_size", [0, 32], "default_size"), ("target_area", 0, "target_area"),
            ("target_area", 1 << 40, "target_area"), ("fps", 0, "fps"), ("fps", 1e9, "fps"),
            ("video_latent_frames", -1, "video_latent_frames"),
            ("video_latent_frames", 1 << 62, "video_latent_frames"),
            ("audio_latent_frames", "7", "audio_latent_frames"), ("magic", 1, "unknown key magic")]:
        yield Bad(f"{key}_{str(value)[:12]}".replace(" ", ""), dump(dict(good, **{key: value})), says)
    for part, key, value in [
            ("text", "vocab", 0), ("text", "dim", 1 << 40), ("text", "num_heads", -4), ("text", "num_layers", 1 << 20),
            ("video", "dim", 65), ("video", "num_layers", 1 << 20), ("video", "patch_size", [1, 0, 2]),
            ("video", "eps", -1), ("video", "text_dim", 65), ("audio", "in_dim", 21), ("audio", "text_len", 0),
            ("video_vae", "dim", 1 << 21), ("video_vae", "dim_mult", []), ("video_vae", "z_dim", 0),
            ("video_vae", "num_res_blocks", 1 << 30), ("audio_vae", "ch_mult", [1] * 99),
            ("audio_vae", "embed_dim", 0), ("vocoder", "num_mels", 81), ("vocoder", "upsample_rates", [0] * 6),
            ("vocoder", "upsample_rates", [1 << 20] * 6), ("vocoder", "upsample_initial_channel", 1)]:
        doc = json.loads(raw)
        doc[part][key] = value
        yield Bad(f"{part}_{key}_{str(value)[:12]}".replace(" ", ""), dump(doc), key)
    for name, path in [("root", "/etc/passwd"), ("parent", "../../etc/passwd"), ("empty", ""), ("number", 7)]:
        yield Bad(f"file_{name}", dump(dict(good, files={"fusion": path})),
                  "files: fusion: expected the name of a file below")
    yield Bad("file_unknown", dump(dict(good, files={"virus": "x"})), 'unknown key "virus"')
    yield Bad("file_escape", dump(dict(good, files={"\x1b[2J\n": "x"})), "unknown key")
    yield Bad("duplicate", raw.replace('"fps"', '"fps": 1, "fps"').encode(), "line [0-9]+: duplicate")
    yield Bad("array", b"[]", "expected a JSON object|line")
    yield Bad("deep", b'{"a":' + b"[" * 5000, "line 1: ")
    yield Bad("not_utf8", b'{"name":"\xff"}', "line 1: ")
    yield Bad("nul", raw.encode().replace(b"micro", b"mi\0ro"), "found a zero at byte 25")
    yield Bad("2_mb", raw.encode() + b" " * (2 << 20), "expected at most 1048576 bytes")
    yield Bad("is_a_folder", os.mkdir, "found a folder|expected a file")


# ---- pictures ----

def png_places(data):
    at, places = 8, [0, 1, 7]
    while at < len(data):
        length = struct.unpack(">I", data[at:at + 4])[0]
        places += [at, at + 4, at + 8, at + 8 + length // 2, at + 8 + length]
        at += 12 + length
    return places


def vp8x(width, height, flags):
    return (b"VP8X\x0a\0\0\0" + bytes([flags, 0, 0, 0]) + struct.pack("<I", width - 1)[:3] +
            struct.pack("<I", height - 1)[:3])


def riff_webp(chunks):
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def bad_exif():
    """EXIF blocks that are broken; none turns the picture."""
    entry = struct.pack(">HHIHH", 0x112, 3, 1, 6, 0)
    yield "empty", b""
    yield "text", b"turn me"
    yield "head", b"MM\0*"
    yield "offset_4_gb", b"MM\0*\xff\xff\xff\xff\0\1" + entry
    yield "offset_at_end", b"MM\0*" + struct.pack(">I", 20) + b"\0\1" + entry[:10]
    yield "entry_cut", b"MM\0*\0\0\0\x08\0\1" + entry[:9]
    yield "entries_65535", b"II*\0\x08\0\0\0\xff\xff" + bytes(40)
    yield "loop", b"MM\0*\0\0\0\x08\0\1" + entry.replace(b"\1\x12", b"\1\x13") + b"\0\0\0\x08"
    yield "orientation_9", b"MM\0*\0\0\0\x08\0\1" + entry.replace(b"\0\6", b"\0\x09")
    yield "other_type", b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIf", 0x112, 11, 1, 6.0)


def bad_images():
    good = png()
    jpeg = seed("photo.jpg")
    yield Bad("good_png", good, good=True)
    yield Bad("good_jpeg", jpeg, good=True)
    yield Bad("good_bmp", bmp(), good=True)
    yield from cuts(good, png_places(good), "png", "expected a PNG|IHDR|IDAT|IEND|PNG chunk at byte")
    for name, w, h in [("0_wide", 0, 3), ("0_high", 4, 0), ("100000_wide", 100000, 1), ("100000_high", 1, 100000),
                       ("100000_square", 100000, 100000), ("2_31", 1 << 31, 1), ("2_32", (1 << 32) - 1, (1 << 32) - 1)]:
        yield Bad(f"png_{name}", png(pixels=b"\0" * 100, header=ihdr(w, h)),
                  f"1 to 16384 pixels a side.*found {w}x{h}")
    yield Bad("png_268_million", png(pixels=b"\0" * 100, header=ihdr(16384, 16384)), "100 million pixels, found 16384x16384")
    for name, change in [("depth_3", dict(depth=3)), ("depth_0", dict(depth=0)), ("colour_7", dict(colour=7)), ("compression_1", dict(compression=1)),
                         ("filter_1", dict(filter_=1)), ("interlace_9", dict(interlace=9)), ("palette_missing", dict(colour=3))]:
        yield Bad(f"png_{name}", png(header=ihdr(4, 3, **change)), "IHDR: expected a depth|expected a palette")
    yield Bad("png_crc", patched(good, 29, b"\0\0\0\0"), "IHDR at byte 8: expected checksum")
    yield Bad("png_chunk_2_gb", good[:33] + b"\x7f\xff\xff\xffIDAT" + bytes(9), "IDAT at byte 33: expected 2147483647 bytes")
    yield Bad("png_chunk_4_gb", good[:33] + b"\xff\xff\xff\xffIDAT" + bytes(9), "IDAT at byte 33: expected 4294967295 bytes")
    yield Bad("png_no_ihdr", PNG_MAGIC + good[33:], "IHDR")
    yield Bad("png_two_ihdr", png(extra=[chunk(b"IHDR", ihdr(9000, 9000))]), "IHDR")
    yield Bad("png_no_pixels", PNG_MAGIC + chunk(b"IHDR", ihdr(4, 3)) + chunk(b"IEND", b""), "IDAT|damaged")
    yield Bad("png_zlib", PNG_MAGIC + chunk(b"IHDR", ihdr(4, 3)) + chunk(b"IDAT", b"garbage") + chunk(b"IEND", b""), "damaged")
    yield Bad("png_palette_1000", png(extra=[chunk(b"PLTE", bytes(3000))], colour=3), "PLTE at byte 33: expected 1 to 256")
    bomb = b"a\0\0" + zlib.compress(bytes(1 << 26), 9)  # harmless: the decoder never sees it
    yield Bad("png_text_bomb", png(extra=[chunk(b"zTXt", bomb)]), good=True)
    yield Bad("png_profile_bomb", png(extra=[chunk(b"iCCP", bomb)]), good=True)
    yield from cuts(jpeg, jpeg_places(jpeg), "jpeg", "expected a PNG|expected the end marker")
    at = jpeg.index(b"\xff\xc0") + 5
    for name, w, h in [("0_wide", 0, 16), ("0_high", 16, 0), ("65535", 65535, 65535), ("16385", 16385, 1)]:
        yield Bad(f"jpeg_{name}", patched(jpeg, at, struct.pack(">HH", h, w)), f"pixels a side.*found {w}x{h}")
    yield Bad("jpeg_no_frame", jpeg.replace(b"\xff\xc0", b"\xff\xe3"), "expected the image.s size before it")
    yield Bad("jpeg_no_tables", jpeg.replace(b"\xff\xdb", b"\xff\xe3"), "expected the image.s tables before it")
    yield Bad("jpeg_no_huffman", jpeg.replace(b"\xff\xc4", b"\xff\xe3"), "damaged")
    yield Bad("jpeg_segment_0", jpeg[:2] + b"\xff\xe0\0\0" + jpeg[2:], "segment e0 at byte 2: found a length of 0")
    yield Bad("jpeg_segment_past_end", jpeg[:2] + b"\xff\xe1\xff\xff" + jpeg[2:], "expected the end marker")
    for name, w, h in [("0_wide", 0, 3), ("wide", 100000, 1), ("negative", -5, 3), ("high", 1, 100000), ("min", 1, -(1 << 31))]:
        yield Bad(f"bmp_{name}", bmp(w, h), "pixels a side|damaged")
    yield Bad("bmp_bits_7", bmp(bits=7), "damaged")
    yield from cuts(bmp(), [2, 13, 17, 30, 53, 60], "bmp", "damaged|ends|expected")
    webp = seed("photo.webp")
    yield Bad("good_webp", webp, good=True)
    yield Bad("webp_animated", riff_webp(vp8x(16, 16, 2)), "expected a still picture, found an animated WebP")
    yield Bad("webp_chunk_4_gb", riff_webp(b"VP8 \xff\xff\xff\xff" + bytes(20)), "chunk at byte 12: expected 4294967295 bytes")
    yield Bad("webp_no_picture", riff_webp(vp8x(16, 16, 0)), "damaged")
    for name, block in bad_exif():  # the picture is good, and stays as it is
        size = struct.pack("<I", len(block))
        yield Bad(f"exif_{name}_png", png(extra=[chunk(b"eXIf", block)]), good=True)
        yield Bad(f"exif_{name}_webp", riff_webp(vp8x(16, 16, 8) + webp[12:] + b"EXIF" + size + block + bytes(len(block) % 2)), good=True)
        yield Bad(f"exif_{name}_jpeg", jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block + jpeg[2:], good=True)
    for rows in (0, 1, 2):
        yield Bad(f"png_{rows}_of_3_rows", png(pixels=bytes(13) * rows), f"expected 39 bytes of pixels, their data ends after {13 * rows}$")
        yield Bad(f"png_{rows}_of_3_rows_16_bits", png(pixels=bytes(25) * rows, depth=16), f"expected 75 bytes of pixels, their data ends after {25 * rows}$")
    yield Bad("png_interlaced_cut", png(pixels=bytes(8), interlace=1), "expected 42 bytes of pixels, their data ends after 8$")
    yield from cuts(webp, [4, 11, 12, 15, 20, 30, len(webp) // 2, len(webp) - 1], "webp", "damaged|ends|expected a PNG")
    yield Bad("riff_is_wav", wav(), "expected a PNG, JPEG, WebP or BMP")
    for name, data in [("gif", b"GIF89a" + bytes(20)), ("svg", b"<svg width='100000' height='100000'/>"), ("ppm", b"P6 9 9 255 "),
                       ("html", b"<html><script>alert(1)</script>"), ("playlist", b"#EXTM3U\nfile:///etc/passwd\n"),
                       ("empty", b"")]:
        yield Bad(name, data, "expected a PNG, JPEG, WebP or BMP")
    yield Bad("300_mb", sparse(300 << 20, PNG_MAGIC), "expected at most 268435456 bytes")
    yield Bad("folder", os.mkdir, "found a folder")
    yield Bad("pipe", os.mkfifo, "expected a file, found something else")
    yield Bad("missing", lambda path: None, "No such file")


def jpeg_places(data):
    at, places = 2, [0, 1, 2]
    while data[at] == 0xff and data[at + 1] != 0xda:
        places += [at + 1, at + 4]
        at += 2 + struct.unpack(">H", data[at + 2:at + 4])[0]
    return places + [at, at + 3, at + 12, (at + len(data)) // 2, len(data) - 2, len(data) - 1]


# ---- clips ----

def bad_clips():
    good = wav()
    clip = seed("clip.mp4")
    yield Bad("good_wav", good, good=True)
    yield Bad("good_y4m", y4m(frames=5), good=True)
    yield Bad("good_mp4", clip, good=True)
    yield from cuts(good, [0, 3, 4, 8, 11, 12, 16, 20, 24, 34, 36, 40, 44, 45, len(good) // 2, len(good) - 1],
                    "wav", "cannot read|the file ends after|expected the chunks|empty file")
    for name, change in [("no_samples", dict(samples=0)), ("channels_0", dict(channels=0, align=2)),
                         ("channels_60000", dict(channels=60000, align=2)), ("rate_0", dict(rate=0)), ("rate_2_32", dict(rate=(1 << 31) + 7)),
                         ("bits_0", dict(bits=0)), ("bits_7", dict(bits=7)), ("tag_unknown", dict(tag=0x7777)),
                         ("align_0", dict(align=0)), ("data_too_long", dict(data_size=1 << 30)),
                         ("data_max", dict(data_size=(1 << 32) - 2)), ("few_samples", dict(samples=10)),
                         ("nan", dict(tag=3, bits=32, data=b"\0\0\xc0\x7f" * 4000))]:
        yield Bad(f"wav_{name}", wav(**change), "expected|cannot|not finite|neither picture nor sound|not one frame")
    yield from cuts(y4m(), [9, 30, 40, 46, 60, 2000, 3124, 3130, len(y4m()) - 1], "y4m", "")
    for name, head in [("0_wide", "W0 H32 F24:1 C444"), ("100000", "W100000 H100000 F24:1 C444"), ("no_size", "F24:1"),
                       ("colour", "W32 H32 F24:1 C999"), ("negative", "W-32 H32 F24:1")]:
        yield Bad(f"y4m_{name}", y4m(header=f"YUV4MPEG2 {head}\n".encode()), "")
    yield from cuts(clip, sorted({4, 8, 20, 36, 60, 200, len(clip) // 2, len(clip) * 3 // 4, len(clip) - 1} | set(mp4_places(clip))),
                    "mp4", "")
    yield Bad("playlist", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n", "cannot read it as a clip")
    yield Bad("concat", b"ffconcat version 1.0\nfile /etc/passwd\n", "cannot read it as a clip")
    yield Bad("text", b"hello", "cannot read it as a clip")
    yield Bad("empty", b"", "cannot read it as a clip|empty")
    yield Bad("folder", os.mkdir, "folder|directory")
    yield Bad("pipe", os.mkfifo, "expected a file, found something else")
    yield Bad("missing", lambda path: None, "No such file")


def mp4_places(data):
    at, places = 0, []
    while at + 8 <= len(data):
        places += [at, at + 8]
        at += max(8, struct.unpack(">I", data[at:at + 4])[0])
    return places


# ---- the request in a clip ----

def told_wav(text, told=None, size=None):
    """A WAV file of no samples whose comment is text."""
    text = text if isinstance(text, bytes) else text.encode()
    comment = b"ICMT" + struct.pack("<I", len(text) if told is None else told) + text + bytes(len(text) % 2)
    chunk_ = b"LIST" + struct.pack("<I", 4 + len(comment) if size is None else size) + b"INFO" + comment
    return b"RIFF" + struct.pack("<I", 4 + len(chunk_)) + b"WAVE" + chunk_


def told_png(text, keyword=b"Comment\0\0\0\0\0"):
    return png(extra=[chunk(b"iTXt", keyword + text.encode())])


def told_gif(blocks, head=b"GIF89a\1\0\1\0\0\0\0"):
    return head + b"\x21\xfe" + blocks + b";"


GOOD_REQUEST = {"generator": "ovi.c", "prompt": "x", "negative_video": "", "negative_audio": "", "steps": 1, "solver": "unipc", "shift": 5.0, "rng": "portable",
                "video_guidance": 4.0, "audio_guidance": 3.0, "slg_layer": 11, "seed": "1", "quality": 18}


def bad_told():
    good = json.dumps(GOOD_REQUEST)
    none, other = "there is no request in it", "expected a request of ovi.c as JSON in it"
    yield Bad("good_wav", told_wav(good), good=True)
    yield Bad("good_png", told_png(good), good=True)
    yield Bad("good_gif", told_gif(bytes([len(good)]) + good.encode() + b"\0"), good=True)
    yield from cuts(told_wav(good), [12, 16, 20, 24, 28, 31, 32], "wav", none)
    yield from cuts(told_wav(good), [33, 60, 100, len(told_wav(good)) - 2], "wav_text", other)
    yield Bad("wav_list_4_gb", told_wav(good, size=0xffffffff), good=True)
    yield Bad("wav_comment_4_gb", told_wav(good, told=0xffffffff), good=True)
    yield Bad("wav_comment_empty", told_wav(""), none)
    yield Bad("wav_comment_of_others", told_wav("Recorded by me"), other)
    yield Bad("wav_comment_list", told_wav("[1,2]"), other)
    yield Bad("wav_comment_of_another_program", told_wav('{"generator":"other","prompt":"x"}'), other)
    yield Bad("wav_comment_deep", told_wav("[" * 100000), other)
    yield Bad("wav_comment_not_utf8", told_wav(b'{"generator":"ovi.c","prompt":"\xff"}'), other)
    yield Bad("wav_comment_twice", told_wav('{"generator":"ovi.c","generator":"ovi.c"}'), other)
    yield Bad("wav_comment_2_mb", told_wav('{"generator":"ovi.c","prompt":"%s"}' % ("x" * (2 << 20))),
              "expected a request of at most 1048576 bytes")
    yield Bad("png_plain", png(), none)
    yield Bad("png_packed_text", png(extra=[chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(1 << 26), 9))]), none)
    yield Bad("png_keyword_only", png(extra=[chunk(b"iTXt", b"Comment\0\0\0")]), none)
    yield Bad("png_no_language_end", png(extra=[chunk(b"iTXt", b"Comment\0\0\0en")]), none)
    yield Bad("png_other_keyword", png(extra=[chunk(b"iTXt", b"Author\0\0\0\0\0" + good.encode())]), none)
    yield Bad("png_chunk_4_gb", PNG_MAGIC + b"\xff\xff\xff\xffiTXt" + bytes(30), none)
    for name, data in [("cut", told_gif(b"\xffabc")[:-1]), ("no_end", told_gif(b"\3abc")[:-1]), ("empty", told_gif(b"\0")),
                       ("head", b"GIF89a"), ("table", b"GIF89a\1\0\1\0\xf7\0\0;" + bytes(8)),
                       ("image_cut", b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\xf7")]:
        yield Bad(f"gif_{name}", data, none if name != "no_end" else "no request|another comment")
    exif = b"EXIF" + struct.pack("<I", 26) + b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x10e, 2, 0xffffffff, 26) + bytes(4)
    yield Bad("webp_description_4_gb", riff_webp(vp8x(9, 9, 8) + exif), none)
    yield Bad("webp_description_outside", riff_webp(vp8x(9, 9, 8) + exif.replace(b"\xff\xff\xff\xff\x1a", b"\x09\0\0\0\xff")), none)
    yield Bad("webp_plain", seed("photo.webp"), none)
    yield Bad("y4m_alone", y4m(), none)
    yield Bad("mp4_plain", seed("clip.mp4"), "no request|another comment")
    yield from cuts(seed("clip.mp4"), [8, 20, 36, 60, 200], "mp4", "cannot read it as a clip|no request")
    yield Bad("webm_head", b"\x1a\x45\xdf\xa3" + bytes(60), "cannot read it as a clip|no request")
    yield Bad("webm_size_max", b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xff" + bytes(60), "cannot read it|no request")


def bad_replays():
    """Requests in clips that ovi would not have written."""
    def row(name, says, **change):
        made = dict(GOOD_REQUEST, **change)
        return Bad(name, told_wav(json.dumps({k: v for k, v in made.items() if v is not ...})), says, nameless=True)
    for key in GOOD_REQUEST:
        if key not in ("generator", "quality", "prompt"):
            yield row(f"no_{key}", "the request in it is incomplete", **{key: ...})
    yield row("no_prompt", "it was not made from a prompt", prompt=...)
    yield row("prompt_null", "it was not made from a prompt", prompt=None)
    yield row("prompt_empty", "prompt: expected a text", prompt="")
    yield row("prompt_100_kb", "prompt: expected at most 32768 bytes", prompt="x" * 100000)
    for name, change in {"steps_0": dict(steps=0), "steps_huge": dict(steps=10**9), "solver": dict(solver="magic"),
                         "shift_negative": dict(shift=-1.0), "shift_huge": dict(shift=1e300), "rng": dict(rng="dice"),
                         "guidance": dict(video_guidance=-4), "slg": dict(slg_layer=99999), "seed": dict(seed="-1"),
                         "seed_text": dict(seed="many"), "quality": dict(quality=99), "size": dict(size="0x0"),
                         "size_huge": dict(size="100000x100000"), "aspect": dict(aspect="1:0"),
                         "steps_text": dict(steps="1"), "steps_2_64": dict(steps=2**63 - 1)}.items():
        yield row(name, "expected|incomplete|noise|block", **change)
    yield row("image", "made from an image of 5x6: expected that image", image={"width": 5, "height": 6, "sha256": "x"})
    yield row("image_true", "made from an image", image=True)


# ---- prompts and options ----

def bad_requests():
    make = lambda *words: ["generate", "--quiet", "--steps", "1", "--threads", "1", "--models", "{models}", "-o",
                           "{out}/x.y4m", *words]
    def row(name, says, *words, code=1, lines=1):
        return Bad(name, b"", says, make(*words), nameless=True, code=code, lines=lines)
    yield row("prompt_empty", "prompt: expected a text, found an empty one", "")
    yield row("prompt_spaces", "prompt: expected a text, found an empty one", " \t\n\u2003")
    yield row("prompt_100_kb", "prompt: expected at most 32768 bytes, found 120000", "x" * 120000)
    yield row("prompt_32769", "prompt: expected at most 32768 bytes, found 32769", "x" * 32769)
    yield row("prompt_not_utf8", "prompt: byte 2: expected UTF-8, found 0xff", b"ok\xff")
    yield row("prompt_cut_utf8", "prompt: byte 4: expected UTF-8, found 0xe2", b"caf \xe2\x82")
    yield row("prompt_surrogate", "prompt: byte 0: expected UTF-8, found 0xed", b"\xed\xa0\x80")
    yield row("prompt_overlong", "prompt: byte 0: expected UTF-8, found 0xc0", b"\xc0\xaf")
    yield row("negative_not_utf8", "negative-video: byte 0: expected UTF-8", "x", "--negative-video", b"\xff")
    for option, values in {"steps": ["0", "-1", "1e3", "", "99999999999999999999", "nan"], "seed": ["-1", "2e9", "99999999999999999999"],
                           "shift": ["nan", "inf", "0", "-3", "x"], "video-guidance": ["nan", "-1", "1e9"],
                           "solver": ["", "rk4", "unipc|euler"], "threads": ["-1", "100000"],
                           "dtype": ["f8"], "quality": ["52"], "checkpoint-every": ["-1"],
                           "slg-layer": ["9999"]}.items():
        for value in values:
            yield row(f"{option}_{value or 'empty'}".replace("/", "_"), f"{option}: expected|{option}: ", f"--{option}", value, "x", code=2)
    for option, values in {"size": ["0x0", "-4x4", "4", "100000x100000", "4x4x4", "axb"], "aspect": ["0:1", "1:", "1", ":", "1:99999999999"],
                           "vram": ["-1", "1X", "nan", "", "0"], "ram": ["lots"], "rng": ["dice", "torch-cuda:0x0", "torch-cuda:x"],
                           "speed": ["abacus"], "device": ["tpu", "../cpu", "cuda:-1", "cuda:x"]}.items():
        for value in values:
            yield row(f"{option}_{value or 'empty'}", f"{option}|noise", f"--{option}={value}", "x")
    for option in ("models", "fusion", "text-encoder", "tokenizer", "video-vae", "audio-vae", "vocoder"):
        yield row(f"{option}_empty", "expected|cannot open|No such", f"--{option}", "", "x")


# ---- output ----

def bad_outputs(micro):
    """Places that cannot be written. {full} is a full disk, {closed} one that is read-only."""
    makes = {"generate": ["generate", "x", "--quiet", "--steps", "1", "--threads", "1", "--models", "{models}"],
             "decode": ["decode", "{latents}", "--quiet", "--threads", "1", "--models", "{models}"],
             "encode": ["encode", "{picture}", "--quiet", "--threads", "1", "--models", "{models}"]}
    endings = {"generate": "mp4", "decode": "y4m", "encode": "safetensors"}
    def row(name, says, words, keeps=""):
        return Bad(name, b"", says, words, nameless=True, keeps=keeps)
    for command, words in makes.items():
        end = endings[command]
        yield row(f"{command}_onto_folder", "is a folder", words + ["-o", f"{{folders}}/x.{end}"])
        yield row(f"{command}_folder_missing", f"nowhere/x.{end}: cannot write: No such", words + ["-o", f"{{out}}/nowhere/x.{end}"])
        yield row(f"{command}_below_file", "Not a directory", words + ["-o", f"{{latents}}/x.{end}"])
        yield row(f"{command}_read_only", "Read-only|Permission", words + ["-o", f"{{closed}}/x.{end}"])
        yield row(f"{command}_full", "No space left", words + ["-o", f"{{full}}/x.{end}"])
        yield row(f"{command}_name_long", "name too long", words + ["-o", "{out}/" + "n" * 300 + "." + end])
        yield row(f"{command}_empty_name", "expected|cannot write", words + ["-o", ""])
    wave = makes["decode"]
    yield row("decode_wav_full", "No space left", wave + ["-o", "{full}/x.wav"])
    yield row("decode_mp4_full", "No space left", wave + ["-o", "{full}/x.mp4"])
    yield row("decode_webm_full", "No space left", wave + ["-o", "{full}/x.webm"])
    yield row("decode_gif_full", "No space left", wave + ["-o", "{full}/x.gif"])
    yield row("decode_webp_full", "No space left", wave + ["-o", "{full}/x.webp"])
    yield row("decode_frames_full", "No space left", wave + ["-o", "{full}/x/"])
    yield row("decode_frames_read_only", "Read-only|Permission", wave + ["-o", "{closed}/x/"])
    yield row("decode_frames_over_others", "expected an empty folder, or one of a clip, found", wave + ["-o", "{folders}/", "--force"])
    yield row("decode_frames_below_file", "Not a directory", wave + ["-o", "{latents}/x/"])
    yield row("decode_frames_onto_file", "expected a folder, found a file", wave + ["-o", "{latents}/", "--force"])
    yield row("decode_sound_full", "No space left", wave + ["-o", "{out}/x.y4m", "--sound", "{full}/x.wav"])
    yield row("decode_sound_folder", "is a folder", wave + ["-o", "{out}/x.y4m", "--sound", "{folders}/x.wav"])
    yield row("decode_sound_of_mp4", "holds no sound itself", wave + ["-o", "{out}/x.mp4", "--sound", "{out}/x.wav"])
    yield row("decode_sound_ending", "ends in .wav", wave + ["-o", "{out}/x.y4m", "--sound", "{out}/x.mp3"])
    yield row("decode_unknown_ending", "expected a name", wave + ["-o", "{out}/x.exe"])
    yield row("replay_folder_missing", "nowhere/x.y4m: cannot write: No such", ["replay", "{sound}", "--quiet", "--threads", "1", "--models", "{models}", "-o", "{out}/nowhere/x.y4m"])
    yield row("decode_no_ending", "expected a name", wave + ["-o", "{out}/x"])
    yield row("report_full", "No space left", makes["decode"] + ["-o", "{out}/x.wav", "--memory-report", "{full}/m.json"], "x.wav")
    yield row("report_folder", "is a folder", makes["decode"] + ["-o", "{out}/x.wav", "--memory-report", "{folders}/x.json"])
    yield row("report_ending", "ends in .svg or .json", makes["decode"] + ["-o", "{out}/x.wav", "--memory-report", "{out}/x.txt"])
    yield row("latents_full", "No space left", makes["generate"] + ["-o", "{out}/x.wav", "--save-latents", "{full}/l.safetensors"], "x.wav")
    yield row("latents_folder", "is a folder", makes["generate"] + ["-o", "{out}/x.wav", "--save-latents", "{folders}/x.y4m"])
    yield row("svg_full", "No space left", ["plan", "--models", "{models}", "--svg", "{full}/p.svg"])
    yield row("svg_folder", "is a folder", ["plan", "--models", "{models}", "--svg", "{folders}/x.svg"])
    yield row("checkpoint_full", "No space left", ["make-checkpoint", "--preset", "micro", "{full}/m"])
    yield row("checkpoint_read_only", "Read-only|Permission", ["make-checkpoint", "--preset", "micro", "{closed}/m"])
    yield row("checkpoint_over_models", "expected|holds", ["make-checkpoint", "--preset", "micro", "{models}"])


# ---- the first hour ----

WAN_2_1 = [("encoder.conv1.weight", "F32", [96, 3, 3, 3, 3]), ("conv2.weight", "F32", [16, 16, 1, 1, 1]),
           ("decoder.upsamples.0.residual.0.gamma", "F32", [384, 1, 1, 1])]
FP8_SCALED = [("scaled_fp8", "F8_E4M3", [2]), ("encoder.block.0.layer.0.SelfAttention.q.weight", "F8_E4M3", [64, 64]),
              ("encoder.block.0.layer.0.SelfAttention.q.scale_weight", "F32", [1]),
              ("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", "F8_E4M3", [128, 64])]


def folder_with(micro, *left_out, **change):
    """The micro models as links, without some of them."""
    def put(path):
        for top, _, names in os.walk(micro.folder):
            for name in names:
                below = os.path.relpath(os.path.join(top, name), micro.folder)
                if below in left_out:
                    continue
                to = os.path.join(path, change.get(name, below))
                os.makedirs(os.path.dirname(to), exist_ok=True)
                os.symlink(os.path.join(top, name), to)
    return put


def bad_first_hour(micro):
    """What a newcomer meets: each gets the sentence that helps."""
    make = ["generate", "x", "--quiet", "-o", "{out}/x.y4m", "--models", "{bad}"]
    long_clip = make + ["--variant", "960x960_10s"]
    yield Bad("empty_folder", os.mkdir, "no file .*input/.*nor any other of the 6.*README", make)
    yield Bad("no_folder", lambda path: None, "expected a model directory, found none", make)
    yield Bad("folder_is_file", b"x", "expected a model directory, found none", make)
    for name, what, option in [
            ("Ovi/model.safetensors", "fusion model", "fusion"),
            ("Wan2.2-TI2V-5B/models_t5_umt5-xxl-enc-bf16.pth", "text encoder", "text-encoder"),
            ("Wan2.2-TI2V-5B/Wan2.2_VAE.pth", "video VAE", "video-vae"),
            ("MMAudio/ext_weights/v1-16.pth", "audio VAE", "audio-vae"),
            ("MMAudio/ext_weights/best_netG.pt", "vocoder", "vocoder"),
            ("Wan2.2-TI2V-5B/google/umt5-xxl/spiece.model", "tokenizer", "tokenizer")]:
        yield Bad(f"without_{option}", folder_with(micro, name),
                  f"{what} not loaded: there is no file .*{name}: put it there, or name one by the option {option}", make)
    def two_variants(path):
        """Another length's fusion model, and files that are there but were never opened."""
        os.makedirs(os.path.join(path, "Ovi"))
        for name in ("Ovi/model_960x960.safetensors",):
            os.symlink(os.path.join(micro.folder, "Ovi/model.safetensors"), os.path.join(path, name))
    def with_tokenizer(path):
        two_variants(path)
        folder = os.path.join(path, "Wan2.2-TI2V-5B/google/umt5-xxl")
        os.makedirs(folder)
        os.symlink(os.path.join(micro.folder, "Wan2.2-TI2V-5B/google/umt5-xxl/spiece.model"),
                   os.path.join(folder, "spiece.model"))
    yield Bad("5_s_file_in_the_folder", with_tokenizer,
              "text encoder not loaded|model_960x960_10s.safetensors.*model_960x960.safetensors beside it is variant 960x960_5s",
              long_clip)
    yield Bad("5_s_file_for_10_s", lambda path: None, "expected the fusion model of variant 960x960_10s, found the file name of "
              "variant 960x960_5s", ["generate", "x", "--quiet", "-o", "{out}/x.y4m", "--variant", "960x960_10s", "--fusion",
                                     "elsewhere/model_960x960.safetensors"], nameless=True)
    use = lambda option: ["plan", "--models", "{models}", "--" + option, "{bad}"]
    yield Bad("wan_2_1_vae", sparse_model(WAN_2_1), "expected the Wan2.2 video VAE .*Wan2.2_VAE.pth.*found the Wan2.1 video VAE",
              use("video-vae"))
    yield Bad("fp8_scaled_encoder", sparse_model(FP8_SCALED), "fp8 with scales .tensor scaled_fp8.*models_t5_umt5-xxl-enc-bf16.pth",
              use("text-encoder"))
    for option, other in [("text-encoder", "fusion"), ("fusion", "video-vae"), ("video-vae", "audio-vae"), ("audio-vae", "vocoder"),
                          ("vocoder", "text-encoder")]:
        yield Bad(f"{other}_for_{option}", sparse_model(micro.tensors[other]), f"{MODELS[option]}: .*expected the .*found the",
                  use(option))


# ---- the table ----

@dataclass
class Kind:
    rows: Callable
    ending: str
    command: list
    needs_micro: bool = False


PLAN = ["plan", "--models", "{models}"]
QUIETLY = ["--quiet", "--threads", "1", "--models", "{models}", "-o", "{out}"]
KINDS = {
    "safetensors": Kind(bad_safetensors, ".safetensors", ["inspect", "{bad}"]),
    "index": Kind(bad_index, ".safetensors.index.json", ["inspect", "{bad}"]),
    "torch": Kind(bad_torch, ".pth", ["inspect", "{bad}"]),
    "weights": Kind(bad_weights, ".safetensors", PLAN, True),
    "values": Kind(bad_values, ".safetensors", PLAN, True),
    "spm": Kind(bad_spm, ".model", PLAN + ["--tokenizer", "{bad}"], True),
    "tokenizer_json": Kind(bad_tokenizer_json, ".json", PLAN + ["--tokenizer", "{bad}"]),
    "latents": Kind(bad_latents, ".safetensors", ["decode", "{bad}", "--quiet", "--threads", "1", "--models", "{models}",
                                                  "-o", "{out}/x.y4m"], True),
    "resume": Kind(bad_resume, ".y4m.resume.safetensors", ["generate", "--resume", "{bad}", "--quiet", "--threads", "1",
                                                           "--models", "{models}", "-o", "{out}/x.y4m"], True),
    "ovi_json": Kind(bad_ovi_json, "ovi.json", ["plan", "--models", "{dir}"], True),
    "image": Kind(bad_images, ".img", PLAN + ["--image", "{bad}"]),
    "clip": Kind(bad_clips, ".clip", ["encode", "{bad}", "--quiet", "--threads", "1", "--models", "{models}", "-o",
                                      "{out}/l.safetensors"]),
    "csv": Kind(bad_csv, ".csv", ["batch", "{bad}"] + QUIETLY),
    "tsv": Kind(bad_tsv, ".tsv", ["generate", "{bad}"] + QUIETLY),
    "jsonl": Kind(bad_jsonl, ".jsonl", ["batch", "{bad}"] + QUIETLY),
    "yaml": Kind(bad_yaml, ".yaml", ["generate", "--config", "{bad}"] + QUIETLY),
    "prompt_file": Kind(bad_prompt_files, ".txt", ["lint", "{bad}", "--models", "{models}"]),
    "first_hour": Kind(bad_first_hour, "", PLAN, True),
    "told": Kind(bad_told, ".clip", ["inspect", "{bad}"]),
    "replay": Kind(bad_replays, ".clip", ["replay", "{bad}", "--quiet", "--threads", "1", "--models", "{models}", "-o",
                                          "{out}/x.y4m"]),
    "request": Kind(bad_requests, "", []),
    "output": Kind(bad_outputs, "", [], True),
    "list_output": Kind(bad_list_outputs, ".csv", []),
}
