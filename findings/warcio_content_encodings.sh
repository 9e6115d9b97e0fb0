#!/usr/bin/env bash
# warcio 1.8.1 (PyPI), the reader of WARC files that most Python crawl tools build on, with Brotli 1.2.1: `content_stream()` of a page with
# `Content-Encoding: br` raises AttributeError, since it asks Brotli's decompressor for `unused_data`, which that type does not have. Of a
# gzip body of two members, which RFC 1952 allows and browsers read whole, it gives the first member only, without a word.
# Seen: gzip 563 of 563 bytes; br AttributeError; two members 100 of 563 bytes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check warcio==1.8.1 Brotli==1.2.1
cat > "$work/look.py" <<'PYTHON'
import gzip, io, sys

import brotli
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

page = b"<p>" + b"one two three " * 40
bodies = [
    ("gzip", gzip.compress(page)),
    ("br", brotli.compress(page)),
    ("gzip", gzip.compress(page[:100]) + gzip.compress(page[100:])),
]
file = io.BytesIO()
writer = WARCWriter(file, gzip=False)
for encoding, body in bodies:
    fields = [("Content-Type", "text/html"), ("Content-Encoding", encoding)]
    headers = StatusAndHeaders("200 OK", fields, protocol="HTTP/1.1")
    record = writer.create_warc_record("http://example.org/", "response", payload=io.BytesIO(body), http_headers=headers)
    writer.write_record(record)
file.seek(0)
seen = []
for record in ArchiveIterator(file):
    try:
        body = record.content_stream().read()
        seen.append(f"{len(body)} of {len(page)} bytes")
        assert page.startswith(body)
    except AttributeError as error:
        seen.append(f"AttributeError: {error}")
    print(record.http_headers.get_header("Content-Encoding"), seen[-1])
ok = seen[0] == "563 of 563 bytes" and "unused_data" in seen[1] and seen[2] == "100 of 563 bytes"
sys.exit(None if ok else "changed")
PYTHON
"$work/venv/bin/python" "$work/look.py"
