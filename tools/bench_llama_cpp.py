"""Times llama.cpp on LLaMA-2-7B's layers with random weights, through llama-cpp-python.

    python tools/bench_llama_cpp.py --format q8_0 --json

One decoding step: a new token in each of two sequences, 256 positions before it. And a prompt of 1000 tokens, of which
the last one's logits are wanted. Two models that
differ in their number of layers are timed; what they differ by is the time of those layers, the rest
(embedding, final norm, output head) is counted once. Prints one line a format: the best of several
runs with the better number of threads, with weights repacked for this CPU or as they are. Model
files are made in a temporary folder and removed.
"""

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import gguf
import llama_cpp as cpp
import numpy as np

from peer.sizes import LLAMA_2_7B

FORMATS = {
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}
PAST = 256
ROWS = 2
PROMPT = 1000


def matrices(kind):
    """Random weights of a layer, and the table of embeddings, in the format `kind`."""
    sizes, random = LLAMA_2_7B, np.random.default_rng(0)

    def matrix(outputs, inputs):
        values = random.standard_normal((outputs, inputs), np.float32) * np.float32(inputs**-0.5)
        return gguf.quants.quantize(values, kind)

    square = matrix(sizes.hidden, sizes.hidden)
    layer = {f"attn_{part}": square for part in ("q", "k", "v", "output")}
    wide = matrix(sizes.intermediate, sizes.hidden)
    layer |= {"ffn_gate": wide, "ffn_up": wide}
    layer["ffn_down"] = matrix(sizes.hidden, sizes.intermediate)
    return layer, matrix(sizes.vocabulary, sizes.hidden)


def write_model(path, layers, kind, layer, table):
    """A model file whose layers all have the same weights."""
    sizes, ones = LLAMA_2_7B, np.ones(LLAMA_2_7B.hidden, np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(sizes.vocabulary)
    writer.add_tokenizer_model("none")
    writer.add_context_length(4096)
    writer.add_embedding_length(sizes.hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(sizes.intermediate)
    writer.add_head_count(sizes.heads)
    writer.add_rope_dimension_count(sizes.hidden // sizes.heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tensor("token_embd.weight", table, raw_dtype=kind)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", table, raw_dtype=kind)
    for index in range(layers):
        writer.add_tensor(f"blk.{index}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{index}.ffn_norm.weight", ones)
        for name, values in layer.items():
            writer.add_tensor(f"blk.{index}.{name}.weight", values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def fill(batch, tokens):
    """tokens: (position, sequence, whether logits are wanted) of each."""
    batch.n_tokens = len(tokens)
    for index, (position, sequence, logits) in enumerate(tokens):
        batch.token[index] = 3 + index
        batch.pos[index] = position
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = sequence
        batch.logits[index] = logits


def time_model(path, threads, repack, seconds):
    """The times of one decoding step and of one prompt, in seconds, for each number of threads.

    repack: whether weights may be laid out anew for this CPU while they are loaded
    """
    options = cpp.llama_model_default_params()
    options.use_extra_bufts = repack
    model = cpp.llama_model_load_from_file(str(path).encode(), options)
    if not model:
        sys.exit(f"llama.cpp cannot load {path}")
    options = cpp.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_seq_max = 2 * 1024, PROMPT, ROWS
    options.n_ubatch = PROMPT
    options.n_threads = options.n_threads_batch = max(threads)
    context = cpp.llama_init_from_model(model, options)
    memory = cpp.llama_get_memory(context)
    batch = cpp.llama_batch_init(PROMPT, 0, 1)

    def decode():
        if cpp.llama_decode(context, batch) != 0:
            sys.exit("llama.cpp cannot decode")
        cpp.llama_synchronize(context)

    for row in range(ROWS):
        fill(batch, [(position, row, position == PAST - 1) for position in range(PAST)])
        decode()

    def step():
        start = time.perf_counter()
        decode()
        taken = time.perf_counter() - start
        for row in range(ROWS):
            cpp.llama_memory_seq_rm(memory, row, PAST, -1)
        return taken

    def read():
        for row in range(ROWS):
            cpp.llama_memory_seq_rm(memory, row, -1, -1)
        start = time.perf_counter()
        decode()
        return time.perf_counter() - start

    def repeat(work, least):
        work()
        times = [work()]
        while sum(times) < seconds or len(times) < least:
            times.append(work())
        return times

    fill(batch, [(PAST, row, True) for row in range(ROWS)])
    times = {}
    for count in threads:
        cpp.llama_set_n_threads(context, count, count)
        times["layers", count] = repeat(step, 5)
    fill(batch, [(position, 0, position == PROMPT - 1) for position in range(PROMPT)])
    for count in threads:
        cpp.llama_set_n_threads(context, count, count)
        times["prompt_1000", count] = repeat(read, 2)
    cpp.llama_batch_free(batch)
    cpp.llama_free(context)
    cpp.llama_model_free(model)
    return times


def measure(name, layers, threads, seconds):
    few, many = layers
    times, (weights, table) = {}, matrices(FORMATS[name])
    with tempfile.TemporaryDirectory() as folder:
        for count_of_layers in (few, many):
            path = Path(folder, f"{count_of_layers}.gguf")
            write_model(path, count_of_layers, FORMATS[name], weights, table)
            for repack in (True, False):
                timed = time_model(path, threads, repack, seconds)
                for (case, threads_used), runs in timed.items():
                    times[case, count_of_layers, repack, threads_used] = runs
            path.unlink()
    ways = [(repack, count) for repack in (True, False) for count in threads]
    for case in ("layers", "prompt_1000"):
        yield summary(name, case, layers, ways, times, weights)


def summary(name, case, layers, ways, times, weights):
    few, many = layers
    best = min(ways, key=lambda way: min(times[case, many, *way]))
    low, high = min(times[case, few, *best]), min(times[case, many, *best])
    layer = (high - low) / (many - few)
    return {
        "peer": f"llama.cpp (llama-cpp-python {cpp.__version__})",
        "suite": "decode",
        "case": case,
        "dtype": name,
        "threads": best[1],
        "repack": best[0],
        "ms": round(1e3 * layer * (many - few), 3),  # the best runs
        "runs": len(times[case, many, *best]),
        "layers": many - few,
        "ms_32_layers": round(1e3 * layer * LLAMA_2_7B.layers, 3),
        "ms_rest": round(1e3 * (low - few * layer), 3),
        "gb_per_s": round(sum(values.nbytes for values in weights.values()) / layer / 1e9, 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--format", choices=[*FORMATS, "all"], default="all")
    parser.add_argument("--layers", type=int, nargs=2, default=(2, 6), metavar=("FEW", "MANY"))
    parser.add_argument("--seconds", type=float, default=1.5, help="at least, for each timing")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=sorted({os.cpu_count(), 1}, reverse=True)
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    quiet = cpp.llama_log_callback(lambda level, text, data: None)
    cpp.llama_log_set(quiet, ctypes.c_void_p())
    cpp.llama_backend_init()
    for name in FORMATS if options.format == "all" else [options.format]:
        for line in measure(name, options.layers, options.threads, options.seconds):
            if options.json:
                print(json.dumps(line), flush=True)
            else:
                print("  ".join(f"{key} {value}" for key, value in line.items()), flush=True)


if __name__ == "__main__":
    main()
