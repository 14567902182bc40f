"""Trains the SentencePiece model on sentences of the world.

    python3 train/make_tokenizer.py models/tiny/Wan2.2-TI2V-5B/google/umt5-xxl/spiece.model

Needs spm_train (Debian: sentencepiece). Unigram, bytes for what is unknown, ids as in umT5.
"""
import os
import random
import subprocess
import sys
import tempfile

import world
from config import CONFIG

# Words of prompts that the world's own sentences lack; pieces for them keep prompts short.
MORE = """a short video clip shows the shape jumping bouncing falling flying going turning spinning moving
hear heard sound sounds music quiet silence loud soft with and while then as it of in on at to from by for
<S>hello<E> <AUDCAP>sound<ENDAUDCAP> bright dark light floor ground wall night day sky sea snow stone wood"""


def sentences(n):
    rng = random.Random(7)
    for i in range(n):
        row = [rng.randrange(k) for k in (4, 8, 4, 8, 8)]
        yield world.caption(row, rng, held_out=i % 5 == 0)
    for text in (world.NEGATIVE_VIDEO, world.NEGATIVE_AUDIO, *MORE.split("\n")):
        yield from [text] * 20


def main(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus = os.path.join(folder, "corpus.txt")
        with open(corpus, "w") as f:
            f.writelines(line + "\n" for line in sentences(40000))
        subprocess.run(["spm_train", f"--input={corpus}", f"--model_prefix={folder}/spiece",
                        f"--vocab_size={CONFIG['text']['vocab']}", "--model_type=unigram",
                        "--hard_vocab_limit=false", "--byte_fallback=true", "--pad_id=0", "--eos_id=1",
                        "--bos_id=2", "--unk_id=3", "--normalization_rule_name=nmt_nfkc",
                        "--character_coverage=1.0", "--num_threads=1", "--random_seed=1",
                        "--minloglevel=1"], check=True)
        os.replace(f"{folder}/spiece.model", path)


if __name__ == "__main__":
    main(sys.argv[1])
