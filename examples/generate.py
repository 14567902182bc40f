#!/usr/bin/env python3
"""A clip from Python, through ctypes alone.

    python3 generate.py MODELS PROMPT OUTPUT [NAME=VALUE ..]     steps=20 seed=7 aspect=16:9

Settings and requests are filled by option name, so that this file need not repeat their
fields: it knows where they begin, and has room for more than they are."""
import ctypes
import sys

ROOM = 4096  # more than any struct of settings or request


class Message(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char * 4096)]


class RequestHead(ctypes.Structure):
    """How ovi_request begins; the prompt is the one text that is no option."""
    _fields_ = [("struct_size", ctypes.c_size_t), ("prompt", ctypes.c_char_p)]


def load(path="libovi.so.0"):
    ovi = ctypes.CDLL(path)
    for name in ("ovi_error", "ovi_version", "ovi_status_name"):
        getattr(ovi, name).restype = ctypes.c_char_p
    ovi.ovi_open.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)]
    ovi.ovi_generate.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    ovi.ovi_error.argtypes = ovi.ovi_close.argtypes = [ctypes.c_void_p]
    return ovi


class Options:
    """A struct of settings or of a request, set by option name. The library borrows the texts,
    so they are kept here as long as the struct."""

    def __init__(self, ovi, kind):
        self.data = ctypes.create_string_buffer(ROOM)
        self.set_one = getattr(ovi, f"ovi_{kind}_set")
        self.texts = []
        getattr(ovi, f"ovi_{kind}_init")(self.data)

    def set(self, name, value):
        text, message = ctypes.create_string_buffer(value.encode()), Message()
        self.texts.append(text)
        if self.set_one(self.data, name.encode(), text, ctypes.byref(message)) != 0:
            raise ValueError(message.text.decode())


def generate(models, prompt, output, options):
    ovi = load()
    settings, request = Options(ovi, "settings"), Options(ovi, "request")
    settings.set("models", models)
    head = RequestHead.from_buffer(request.data)
    head.prompt = prompt.encode()
    request.set("output", output)
    for name, value in options:
        request.set(name, value)
    engine = ctypes.c_void_p()
    try:
        status = ovi.ovi_open(settings.data, ctypes.byref(engine))
        if status == 0:
            status = ovi.ovi_generate(engine, request.data, None)
        if status != 0:
            raise RuntimeError(ovi.ovi_error(engine).decode())
    finally:
        ovi.ovi_close(engine)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    try:
        generate(*sys.argv[1:4], [word.split("=", 1) for word in sys.argv[4:]])
    except (ValueError, RuntimeError) as failure:
        sys.exit(str(failure))
    print(sys.argv[3])
