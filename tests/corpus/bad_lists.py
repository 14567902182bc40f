"""Rows of the table for files of the command itself: lists of clips (CSV, TSV, JSON lines) and
the published configuration (YAML)."""
import os

from corpus import Bad, cuts

CSV_MAX_BYTES = 64 << 20
YAML_MAX_BYTES = 1 << 20
MOST_CLIPS = 100000
HEAD = b"text_prompt,image_path,seed,steps\n"
UNFIT = dict(nameless=True, keeps="status.jsonl")  # a row that fails: the list's status file stays


def of_size(size):
    def put(path):
        with open(path, "wb") as f:
            f.truncate(size)
    return put


def long_texts():
    """name, bytes that a message might show: a terminal must not obey them, and a line has an end."""
    yield "escape", b"\x1b[31mx\x1b]0;x\x07"
    yield "c1", b"\xc2\x9b31mx"
    yield "line_end", b"x\ny"
    yield "not_utf8", b"x\xff\xc3\x28"
    yield "100_kb", b"x" * 100000
    yield "cut_at_character", b"x" * 79 + b"\xe2\x82\xac" * 9


# ---- CSV and TSV ----

def bad_tables(separator):
    """What is wrong with the file as a whole: it is refused before any work."""
    row = lambda *cells: separator.join(cells) + b"\n"
    head, good = row(b"text_prompt", b"seed"), row(b"A", b"1")
    yield Bad("empty", b"", "line 1: expected a line of column names, found nothing")
    yield Bad("mark_alone", b"\xef\xbb\xbf", "expected a line of column names")
    yield Bad("line_ends_alone", b"\n\r\n\n", "expected a line of column names")
    yield Bad("head_alone", head, "expected rows, found none")
    yield Bad("no_prompt", row(b"seed", b"steps") + good, "line 1: expected a column text_prompt")
    yield Bad("column_unknown", row(b"text_prompt", b"sede") + good, 'named "sede"; did you mean seed')
    yield Bad("column_far", row(b"text_prompt", b"colour") + good, 'named "colour"$')
    yield Bad("column_empty", row(b"text_prompt", b"") + good, 'named ""')
    yield Bad("column_twice", row(b"text_prompt", b"seed", b"seed") + good, "two columns mean the same option")
    yield Bad("column_by_two_names", row(b"text_prompt", b"steps", b"num_steps") + good, "two columns mean the same option")
    yield Bad("column_of_engine", row(b"text_prompt", b"models") + good, 'named "models"')
    yield Bad("columns_257", row(b"text_prompt", *[b""] * 256) + good, "line 1: more than 256 cells")
    yield Bad("cells_257", head + row(*[b"A"] * 257), "line 2: more than 256 cells")
    yield Bad("separators_1_mb", head + separator * (1 << 20), "line 2: more than 256 cells")
    for name, text in long_texts():
        yield Bad("column_" + name, row(b"text_prompt", b'"' + text + b'"') + good, "there is no option of a clip named")
    yield Bad("quote_open_in_head", b'"text_prompt\n' + good, "line 1: a quote is opened and never closed")
    yield Bad("quote_open", head + b'"A\nB\nC\n', "line 2: a quote is opened and never closed")
    yield Bad("quote_open_1_mb", head + b'"' + b"A\n" * (1 << 19), "line 2: a quote is opened and never closed")
    yield Bad("quote_at_end", head + b'"', "line 2: a quote is opened and never closed")
    yield Bad("quotes_1_mb", head + b'"' * ((1 << 20) + 1), "line 2: a quote is opened and never closed")
    yield Bad("text_after_quote", head + b'"A"B\n', "line 2: expected a separator or the end of the line")
    yield Bad("quote_in_quotes", head + b'"say "hi""\n', "line 2: expected a separator or the end of the line")
    yield Bad("text_after_quote_of_two_lines", head + b'"A\nB"C\n', "line 3: expected a separator")
    for name, text in [("first", b"\0" + head), ("in_cell", head + b"A\0B\n"), ("in_quotes", head + b'"A\n\0"\n'), ("last", head + good + b"\0")]:
        yield Bad("nul_" + name, text, "a NUL byte: this is not text")
    yield Bad("utf_16", (head + good).decode().encode("utf-16"), "a NUL byte: this is not text")
    yield Bad("png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a NUL byte: this is not text")
    yield Bad("cr_alone", b"text_prompt\rA\r", "there is no option of a clip named")
    yield Bad("records_100001", head + b"A\n" * MOST_CLIPS, "line 100001: more than 100000 records")


def bad_csv():
    row = lambda cells, head=HEAD: head + cells + b"\n"
    yield Bad("good", b"text_prompt,steps\nA,1\n", good=True)
    yield Bad("good_crlf", b'\xef\xbb\xbf"text_prompt","steps"\r\n"A ""b"", c\r\nd","1"\r\n', good=True)
    yield from bad_tables(b",")
    yield Bad("64_mb", of_size(CSV_MAX_BYTES + 1), "expected at most 67108864 bytes")
    yield Bad("folder", os.mkdir, "expected a file, found a folder")
    yield Bad("pipe", os.mkfifo, "expected a file, found something else")
    yield Bad("missing", lambda path: None, "No such file")
    yield Bad("link_to_itself", lambda path: os.symlink(path, path), "symbolic links")
    many = row(b"A,1000\n" * 101, b"text_prompt,each_example_n_times\n")
    yield Bad("clips_101000", many, "line 102: expected at most 100000 clips")
    for name, cells, says in [
            ("prompt_empty", b",,1,1", "text_prompt: expected a text, found none"),
            ("prompt_spaces", b'" \t ",,1,1', "text_prompt: expected a text, found none"),
            ("prompt_wide_spaces", "\u3000\u2003,,1,1".encode(), "prompt: expected a text, found an empty one"),
            ("prompt_1_mb", b"x" * (1 << 20) + b",,1,1", "prompt: expected at most 32768 bytes, found 1048576"),
            ("prompt_not_utf8", b"ok\xff,,1,1", "prompt: byte 2: expected UTF-8, found 0xff"),
            ("prompt_surrogate", b"\xed\xa0\x80,,1,1", "prompt: byte 0: expected UTF-8"),
            ("seed_text", b"A,,x,1", "seed: expected a whole number"), ("seed_negative", b"A,,-1,1", "seed: expected"),
            ("seed_large", b"A,,99999999999999999999,1", "seed: expected"), ("seed_escape", b"A,,\x1b[2J,1", "seed: expected.*found ...2J"),
            ("seed_100_kb", b"A,," + b"9" * 100000 + b",1", "seed: expected"), ("seed_lines", b'A,,"1\n2",1', "seed: expected"),
            ("steps_0", b"A,,1,0", "steps: expected"), ("steps_nan", b"A,,1,nan", "steps: expected"),
            ("cells_5", b"A,,1,1,1", "line 2: expected at most 4 cells, found 5"),
            ("image_missing", b"A,nowhere.png,1,1", "image_path: .*nowhere.png: No such file"),
            ("image_folder", b"A,/,1,1", "image_path: /: expected a file, found a folder"),
            ("image_endless", b"A,/dev/zero,1,1", "image_path: /dev/zero: expected a file, found something else"),
            ("image_terminal", b"A,/dev/tty,1,1", "image_path: /dev/tty: "),
            ("image_name_5000", b"A," + b"n" * 5000 + b",1,1", "image_path: .*name too long"),
            ("image_escape", b"A,\x1b[2J,1,1", "image_path: .*No such file")]:
        yield Bad("row_" + name, row(cells), "row 1: " + says, **UNFIT)
    for value in (b"0", b"1001", b"-1", b"1e3", b"99999999999999999999", b"\x1b[2J"):
        yield Bad("repeat_" + value.decode().replace("\x1b[", "esc"), row(b"A," + value, b"text_prompt,repeat\n"),
                  "row 1: each_example_n_times: expected a whole number from 1 to 1000", **UNFIT)
    for column, values, says in [
            (b"output", [b"../x.mp4", b"/tmp/x.mp4", b"a/../../x.mp4", b"..", b"a//b.mp4", b"a/", b"a\\b.mp4", b'"a\nb.mp4"', b"\x1b[2J.mp4",
                         b"\xff.mp4"], "output: expected a plain name inside the output folder"),
            (b"output", [b"x.exe", b"x.mp4x"], "output: this build writes no clips that end in"),
            (b"save_latents", [b"../l", b"/tmp/l"], "save-latents: expected a plain name"),
            (b"memory_report", [b"x.json"], "memory-report: not offered"),
            (b"video_frame_height_width", [b"tall", b"[704]", b"[704; 1280; 3]", b"[-1; 5]"], "expected .HEIGHT, WIDTH."),
            (b"size", [b"0x0", b"100000x100000", b"4"], "size: expected"), (b"shift", [b"nan", b"0"], "shift: expected"),
            (b"solver", [b"magic"], "solver: expected one of"), (b"slg_layer", [b"9999"], "slg-layer: expected"),
            (b"rng", [b"dice"], "rng|noise")]:
        for value in values:
            name = f"row_{column.decode()}_{value.decode(errors='replace')}"
            yield Bad(name, row(b"A," + value, b"text_prompt," + column + b"\n"), "row 1: .*" + says, **UNFIT)
    yield Bad("same_output_twice", b"text_prompt,output,steps\nA,x.wav,x\nB,x.wav,1\nC,x.wav,1\n", "row 1: steps.*\n.*row 3: output: another file of this list",
              lines=2, keeps="x.wav|status.jsonl", nameless=True)
    yield Bad("name_300", row(b"A," + b"n" * 300 + b".y4m,1", b"text_prompt,output,steps\n"), "row 1: .*name too long", **UNFIT)


def bad_tsv():
    yield Bad("good", b"text_prompt\tsteps\nA, b\t1\n", good=True)
    yield from bad_tables(b"\t")


def bad_list_outputs():
    """Places where the clips of a list, or its status file, cannot be written."""
    clip = b"text_prompt,steps\nA,1\n"
    make = lambda *words: ["batch", "{bad}", "--quiet", "--threads", "1", "--models", "{models}", *words]
    row = lambda name, says, place: Bad(name, clip, "row 1: .*" + says, make("-o", place), **UNFIT)
    yield row("full", "No space left", "{full}")
    yield row("read_only", "Read-only|Permission", "{closed}/x")
    yield row("below_file", "Not a directory", "{latents}/x")
    yield row("onto_file", "Not a directory", "{picture}")
    yield row("name_long", "name too long", "{out}/" + "n" * 300)
    yield Bad("onto_clip_name", clip, "output: expected a folder for these clips", make("-o", "{out}/x.y4m"), nameless=True)
    yield Bad("format", clip, "format: this build writes no clips that end in .exe", make("-o", "{out}", "--format", "exe"), nameless=True)
    for option in ("save-latents", "memory-report"):
        yield Bad(option, clip, f"{option}: belongs to one clip", make("-o", "{out}", f"--{option}", "{out}/x.json"), nameless=True)
    for name, status, says in [
            ("not_json", b"hello\n", "line 1: expected the status of a clip"), ("empty_line", b"\n", "line 1: expected the status"),
            ("list", b"[]\n", "line 1: expected"), ("nul", b"\0\n", "line 1: expected"), ("no_state", b'{"row": 1}\n', "line 1: expected"),
            ("state_unknown", b'{"row":1,"repeat":0,"digest":"0","state":"lost","output":"","seconds":0,"error":""}\n', "line 1: expected"),
            ("deep", b"[" * 100000 + b"\n", "line 1: expected"), ("10_mb", b"x" * (10 << 20) + b"\n", "line 1: expected"),
            ("folder", None, "Is a directory|expected a file")]:
        yield Bad("status_" + name, with_status(clip, status), "status.jsonl: " + says, make("-o", "{out}"), nameless=True)


def bad_prompt_files():
    """Files of text for ovi lint. What is wrong with the text itself is a notice, not a refusal."""
    yield Bad("good", b"<S>Hi.<E> <AUDCAP>Rain.<ENDAUDCAP>", good=True)
    yield Bad("nul", b"A dog\0barks", "byte 5: a NUL byte: this is not text")
    yield Bad("1_mb", b"x" * ((1 << 20) + 1), "expected at most 1048576 bytes")
    yield Bad("folder", os.mkdir, "expected a file, found a folder")
    yield Bad("pipe", os.mkfifo, "expected a file, found something else")


def with_status(clip, status):
    def put(path):
        with open(path, "wb") as f:
            f.write(clip)
        if status is None:
            os.mkdir(path + ".status.jsonl")
        else:
            with open(path + ".status.jsonl", "wb") as f:
                f.write(status)
    return put


# ---- JSON lines ----

def bad_jsonl():
    yield Bad("good", b'\xef\xbb\xbf{"text_prompt": "A \\u00e9", "steps": 1}\r\n\n', good=True)
    for name, text in [("empty", b""), ("mark_alone", b"\xef\xbb\xbf"), ("spaces_alone", b" \n\t\r\n")]:
        yield Bad(name, text, "expected rows, found none")
    yield Bad("lines_100001", b"{}\n" * (MOST_CLIPS + 1), "line 100001: more than 100000 rows")
    yield Bad("folder", os.mkdir, "expected a file, found a folder")
    yield Bad("pipe", os.mkfifo, "expected a file, found something else")
    yield Bad("missing", lambda path: None, "No such file")
    good = b'{"text_prompt": "A", "steps": 1, "size": "64x64"}'
    for bad in cuts(good, [1, 2, 8, 14, 15, 17, 20, 21, 29, 31, 38, 48], "line", "row 1: line 1: expected a JSON object: ", **UNFIT):
        yield bad
    deep = b"[" * 100000 + b"]" * 100000
    for name, line, says in [
            ("list", b"[1]", "line 1: expected a JSON object"), ("number", b"7", "line 1: expected a JSON object"),
            ("text", b'"A"', "line 1: expected a JSON object"), ("null", b"null", "line 1: expected a JSON object"),
            ("csv", b"text_prompt,seed", "line 1: expected a JSON object: "), ("two", good + b" " + good, "line 1: expected a JSON object: "),
            ("deep", b'{"text_prompt": ' + deep + b"}", "expected a JSON object: .*depth"), ("deep_alone", deep, "expected a JSON object: .*depth"),
            ("nul", b'{"text_prompt": "A\0B"}', "expected a JSON object: "), ("nul_escaped", b'{"text_prompt": "A\\u0000B"}', "expected a JSON object: "),
            ("not_utf8", b'{"text_prompt": "\xff"}', "expected a JSON object: "), ("surrogate", b'{"text_prompt": "\\ud800"}', "expected a JSON object: "),
            ("key_twice", b'{"text_prompt": "A", "text_prompt": "B"}', "expected a JSON object: duplicate"),
            ("key_by_two_names", b'{"text_prompt": "A", "steps": 1, "num_steps": 2}', "num_steps: given twice"),
            ("key_unknown", b'{"text_prompt": "A", "sede": 1}', 'named "sede"; did you mean seed'),
            ("key_of_engine", b'{"text_prompt": "A", "vram": "1G"}', 'named "vram"'),
            ("object", b'{"text_prompt": {"a": 1}}', "text_prompt: expected a text or a number"),
            ("true", b'{"text_prompt": true}', "text_prompt: expected a text or a number"),
            ("steps_true", b'{"text_prompt": "A", "steps": true}', "steps: expected a text or a number"),
            ("steps_real", b'{"text_prompt": "A", "steps": 1.5}', "steps: expected a whole number"),
            ("steps_list", b'{"text_prompt": "A", "steps": [1, 2]}', "steps: expected a whole number"),
            ("seed_large", b'{"text_prompt": "A", "seed": 99999999999999999999}', "expected a JSON object: .*integer"),
            ("shift_infinite", b'{"text_prompt": "A", "shift": 1e999}', "expected a JSON object: .*real"),
            ("size_list", b'{"text_prompt": "A", "video_frame_height_width": [1, 2, 3]}', "expected .HEIGHT, WIDTH."),
            ("no_prompt", b"{}", "text_prompt: expected a text, found none"), ("null_prompt", b'{"text_prompt": null}', "text_prompt: expected a text"),
            ("prompt_1_mb", b'{"text_prompt": "' + b"x" * (1 << 20) + b'"}', "prompt: expected at most 32768 bytes"),
            ("output_outside", b'{"text_prompt": "A", "output": "../x.mp4"}', "output: expected a plain name"),
            ("output_line_end", b'{"text_prompt": "A", "output": "a\\nb.mp4"}', "output: expected a plain name")]:
        yield Bad("line_" + name, line + b"\n", "row 1: .*" + says, **UNFIT)
    for name, text in long_texts():
        if name != "not_utf8":
            key = text.decode().translate({10: "\\n", 27: "\\u001b", 7: "\\u0007"}).encode()
            yield Bad("key_" + name, b'{"text_prompt": "A", "' + key + b'": 1}', "row 1: there is no option of a clip named", **UNFIT)


# ---- YAML ----

PUBLISHED = b"""ckpt_dir: ./ckpts
output_dir: ./outputs
sample_steps: 1
solver_name: unipc
model_name: "720x720_5s" # ["720x720_5s", "960x960_5s", "960x960_10s"]
shift: 5.0
sp_size: 1
audio_guidance_scale: 3.0
video_guidance_scale: 4.0
mode: "t2v" # ["t2v", "i2v", "t2i2v"] all comes with audio
fp8: False
cpu_offload: False
seed: 103
video_negative_prompt: "jitter, bad hands, blur, distortion"  # Artifacts to avoid
audio_negative_prompt: "robotic, muffled, echo, distorted"    # Artifacts to avoid
video_frame_height_width: [64, 96] # only useful if mode = t2v or t2i2v
text_prompt: "A cat"
slg_layer: 1
each_example_n_times: 1
"""


def laughs(list_of):
    lines = [b"a0: &a0 " + list_of(b"x")]
    lines += [b"a%d: &a%d " % (i, i) + list_of(b"*a%d" % (i - 1)) for i in range(1, 30)]
    return b"\n".join(lines)


def bad_values():
    """Keys of the published file with values that do not fit."""
    change = {
        "sample_steps": ["0", "-1", "1e3", "two", "[1]", "99999999999999999999"], "seed": ["-1", "x", "1.5"],
        "solver_name": ["magic", "[unipc]"], "shift": ["nan", ".inf", "0", "x"], "audio_guidance_scale": ["nan", "-1", "x"],
        "video_guidance_scale": ["1e9", "x"], "video_frame_height_width": ["[64]", "[a, b]", "[1, 2, 3]", "[-64, 96]", "tall", "[]"],
        "slg_layer": ["9999", "x", "[1]"], "model_name": ['"720x720_50s"', "[a, b]"], "sp_size": ["2", "0", "x"],
        "mode": ["t2i2v", "v2v", '""'], "fp8": ["maybe", "2"], "cpu_offload": ["maybe"], "each_example_n_times": ["0", "1001", "-1", "x"]}
    for key, values in change.items():
        for value in values:
            yield key, value, "t2i2v needs" if value == "t2i2v" else "expected"
    yield "shard_text_model", "true", "expected false: a sharded text encoder is not offered"
    yield "qint8", "true", "expected false: qint8 is not offered"


def bad_yaml():
    yield Bad("good", PUBLISHED, good=True)
    all_keys = PUBLISHED.replace(b"sample_steps", b"num_steps") + b"image_path: null\nqint8: False\nshard_text_model: False\n"
    yield Bad("good_all_keys", all_keys, good=True)
    yield Bad("good_utf_16", PUBLISHED.decode().encode("utf-16"), good=True)
    whole = lambda name, text, says, **more: Bad(name, text, says, **{"code": 2, **more})
    yield whole("empty", b"", "line 1: expected keys with values")
    for name, text, says in [
            ("comment_alone", b"# nothing\n", "expected keys with values"), ("text", b"hello", "expected keys with values"),
            ("list", b"- a\n- b\n", "expected keys with values"), ("two_documents", b"seed: 1\n---\nseed: 2\n", "a second document begins here"),
            ("key_twice", b"seed: 1\nshift: 5\nseed: 2\n", "line 3: this key is there twice"),
            ("nested_map", b"seed: {a: 1}\n", "line 1: .*nested"), ("nested_block", b"seed:\n  a: 1\n", "line 2: .*nested"),
            ("nested_list", b"seed: [[1]]\n", "line 1: expected a number or a text in this list"),
            ("key_list", b"? [a]\n: 1\n", "line 1: expected a key"), ("key_alias", b"*a : 1\n", "aliases are not taken here"),
            ("laughs", laughs(lambda x: b"[" + b", ".join([x] * 9) + b"]"), "line 1: anchors and tags are not taken here"),
            ("laughs_in_maps", laughs(lambda x: b"{a: " + x + b", b: " + x + b"}"), "line 1: .*nested"),
            ("laughs_by_merge", b"a: &a {x: 1}\n<<: [*a, *a, *a]\n", "line 1: "), ("alias_alone", b"seed: *a\n", "aliases are not taken here"),
            ("alias_of_itself", b"seed: &a [*a]\n", "anchors and tags are not taken here"), ("anchor", b"seed: &a 1\n", "anchors and tags"),
            ("tag_python", b"seed: !!python/object/apply:os.system ['x']\n", "anchors and tags are not taken here"),
            ("tag_int", b"seed: !!int 1\n", "anchors and tags"), ("tag_on_key", b"!!str seed: 1\n", "anchors and tags"),
            ("directive", b"%YAML 9.9\n---\nseed: 1\n", "incompatible YAML"), ("directive_cut", b"%TAG ! x", "line 2: .*document start"),
            ("quote_open", b'seed: "1\nshift: 5\n', "line 1|line 3: "), ("list_open", b"seed: [1, 2\nshift: 5\n", "line 2: "),
            ("escape_unknown", b'seed: "\\q"\n', "line 1: .*escape"), ("escape_too_far", b'seed: "\\UFFFFFFFF"\n', "line 1: .*Unicode"),
            ("escape_surrogate", b'seed: "\\uD800"\n', "line 1: .*Unicode"), ("nul_escaped", b'text_prompt: "A\\0B"\n', "a NUL character"),
            ("nul", b"seed: 1\0\n", "line 1: .*control characters"), ("control", b"seed: \x1b[2J\n", "line 1: .*control characters"),
            ("not_utf8", b"seed: \xff\n", "line 1: .*UTF-8"), ("utf_16_half", b"\xff\xfes\0e\0e\0d", "line 1: .*UTF-16"),
            ("tab", b"seed:\n\t1\n", "line 2: .*character that cannot start any token"), ("indent", b"seed: 1\n shift: 2\n", "line 2: "),
            ("no_colon", b"seed: 1\nshift\n", "line 2|line 3: "), ("csv", b"text_prompt,seed\nA,1\n", "line "),
            ("json_lines", b'{"seed": 1}\n{"seed": 2}\n', "line 2: "),
            ("deep_flow", b"seed: " + b"[" * 100000, "line 1: "), ("deep_flow_alone", b"{a: " * 100000, "line 1: "),
            ("deep_block", b"- " * 100000, "line 1: "), ("deep_keys", b"? " * 100000, "line 1: "),
            ("keys_100000", b"".join(b"k%d:\n" % i for i in range(100000)), "line 1001: more than 1000 keys"),
            ("list_300000", b"seed: [" + b"1," * 300000 + b"]\n", "seed: .*expected"),
            ("list_300000_open", b"seed: [" + b"1," * 300000, "line 2: did not find"),
            ("1_mb", b"#" * (YAML_MAX_BYTES + 1), "expected at most 1048576 bytes")]:
        yield whole(name, text, says)
    yield whole("folder", os.mkdir, "expected a file, found a folder")
    yield whole("pipe", os.mkfifo, "expected a file, found something else")
    yield whole("missing", lambda path: None, "No such file")
    for name, text in long_texts():
        if name != "not_utf8":
            key = b'"' + text.replace(b"\x1b", b"\\e").replace(b"\x07", b"\\a").replace(b"\n", b"\\n").replace(b"\xc2\x9b", b"\\x9b") + b'"'
            yield whole("key_" + name, b"? " + key + b"\n: 1\n", "line 1: .*there is no such key")
    yield whole("key_unknown", b"sead: 1\n", "line 1: sead: there is no such key; did you mean seed")
    yield whole("key_of_engine", b"vram: 1G\n", "vram: there is no such key")
    for key, value, says in bad_values():
        text = PUBLISHED.decode()
        line = f"{key}: {value}\n"
        at = text.find(key + ":")
        text = text[:at] + line + text[text.index("\n", at) + 1:] if at >= 0 else text + line
        yield whole(f"{key}_{value}", text.encode(), f"line [0-9]+: {key}: .*{says}")
    yield whole("fp8_other_variant", PUBLISHED.replace(b"720x720_5s\" #", b"960x960_5s\" #").replace(b"fp8: False", b"fp8: True"),
                "fp8: expected model_name 720x720_5s, found 960x960_5s")
    with_prompt = lambda value: PUBLISHED.replace(b'"A cat"', value)
    yield whole("no_prompt", PUBLISHED.replace(b'text_prompt: "A cat"\n', b""), "expected PROMPT", nameless=True)
    yield whole("null_prompt", with_prompt(b"null"), "expected PROMPT", nameless=True)
    yield Bad("empty_prompt", with_prompt(b'""'), "text_prompt: expected a text", **UNFIT)
    yield Bad("prompt_900_kb", with_prompt(b"x" * 900000), "prompt: expected at most 32768 bytes, found 900000", **UNFIT)
    yield Bad("prompt_list", with_prompt(b"nowhere.csv"), "nowhere.csv: No such file", nameless=True)
    yield Bad("i2v_without_image", PUBLISHED.replace(b'"t2v"', b"i2v"), "image_path: expected one, for the mode is i2v", **UNFIT)
    yield Bad("image_missing", PUBLISHED.replace(b'"t2v"', b"i2v") + b"image_path: nowhere.png\n", "image_path: .*nowhere.png: No such file", **UNFIT)
