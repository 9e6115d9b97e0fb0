#!/usr/bin/env bash
# zstandard 0.25.0 (PyPI), a .jsonl.zst of two frames, such as `cat a.zst b.zst` makes, which RFC 8878 reads as one text: some
# ways to read it stop after the first frame without a word, and the option that is meant for this does not decide which.
#   decompress(), read_to_iter(), decompressobj()                first frame
#   open(), stream_reader().read(), lines of it, copy_stream()   both, with read_across_frames=False, too
#   stream_reader().read(n) for a large n                        the rest of one frame a call; of both with read_across_frames=True
# backports.zstd 1.8.0, the module of Python 3.14, reads both frames in decompress() and open().
# What works everywhere: open(), or one frame a file.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check zstandard==0.25.0 backports.zstd==1.8.0
cat > "$work/look.py" <<'PYTHON'
import io, pathlib, sys

import zstandard
from backports import zstd
from zstandard import ZstdCompressor, ZstdDecompressor

first, second = (b"".join(b'{"text": "%s %d"}\n' % (name, i) for i in range(1000)) for name in (b"first", b"second"))
packed = ZstdCompressor().compress(first) + ZstdCompressor().compress(second)
path = pathlib.Path(sys.argv[1], "corpus.jsonl.zst")
path.write_bytes(packed)


def copied():
    target = io.BytesIO()
    ZstdDecompressor().copy_stream(io.BytesIO(packed), target)
    return target.getvalue()


def stream(**options):
    return ZstdDecompressor().stream_reader(io.BytesIO(packed), **options)


one, both, rest = first, first + second, len(first + second)
cases = [
    ("decompress()", ZstdDecompressor().decompress(packed), one),
    ("read_to_iter()", b"".join(ZstdDecompressor().read_to_iter(io.BytesIO(packed))), one),
    ("decompressobj()", ZstdDecompressor().decompressobj().decompress(packed), one),
    ("open()", zstandard.open(path).read(), both),
    ("stream_reader().read()", stream().read(), both),
    ("stream_reader(read_across_frames=False).read()", stream(read_across_frames=False).read(), both),
    ("lines of stream_reader()", "".join(io.TextIOWrapper(stream())).encode(), both),
    ("copy_stream()", copied(), both),
    (f"stream_reader().read({rest})", stream().read(rest), one),
    (f"stream_reader(read_across_frames=True).read({rest})", stream(read_across_frames=True).read(rest), both),
    ("decompress() of backports.zstd", zstd.decompress(packed), both),
    ("open() of backports.zstd", zstd.open(path).read(), both),
]
ok = True
for name, seen, expected in cases:
    print(f"{name}: {seen.count(bytes([10]))} of 2000 lines")
    ok &= seen == expected
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py" "$work"
