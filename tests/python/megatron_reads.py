"""Exchange token shards with Megatron, in both directions.

    megatron_reads.py read PREFIX    megatron-core's IndexedDataset opens PREFIX.bin and PREFIX.idx
    megatron_reads.py write PREFIX   its IndexedDatasetBuilder writes them, from documents on stdin

Needs: pip install torch numpy megatron-core. `read` prints one JSON object: the tokens of every sequence, and the first
sequence of every document and their number. `write` takes {"dtype": "uint16" or "int32", "documents": [[[token, ...],
...], ...]}: documents of sequences of tokens.

Exit status: 0 done, 1 the shard does not open as it should, 2 usage, 3 megatron-core is not installed (a caller may skip).
"""
import json
import sys
import warnings

warnings.filterwarnings("ignore")

try:
    import numpy
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
except ImportError as error:
    print(f"megatron_reads: {error}; pip install torch numpy megatron-core", file=sys.stderr)
    sys.exit(3)


def read(prefix):
    """What Megatron sees in a shard, both through a memory map and through a file."""
    mapped = IndexedDataset(prefix, mmap=True)
    plain = IndexedDataset(prefix, mmap=False)
    sequences = [mapped[i].tolist() for i in range(len(mapped))]
    if sequences != [plain[i].tolist() for i in range(len(plain))]:
        sys.exit("mapped and read, the sequences differ")
    for i, sequence in enumerate(sequences):
        if sequence[1:3] != mapped.get(i, offset=1, length=min(2, len(sequence) - 1)).tolist():
            sys.exit(f"a part of sequence {i} is not a part of it")
    return {
        "dtype": numpy.dtype(mapped.index.dtype).name,
        "sequences": sequences,
        "documents": mapped.document_indices.tolist(),
    }


def write(prefix, given):
    """A shard as Megatron's own preprocessing would write it."""
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=numpy.dtype(given["dtype"]).type)
    for document in given["documents"]:
        for sequence in document:
            builder.add_item(torch.tensor(sequence, dtype=torch.int64))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("read", "write"):
        print(__doc__, file=sys.stderr)
        return 2
    if sys.argv[1] == "read":
        print(json.dumps(read(sys.argv[2])))
    else:
        write(sys.argv[2], json.load(sys.stdin))
    return 0


if __name__ == "__main__":
    sys.exit(main())
