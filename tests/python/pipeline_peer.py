"""The whole preparation beside datatrove's: same input, same rules, one core, processor time of both.

    python pipeline_peer.py make INPUT.warc.gz PAGE.html[.gz]...         # an archive of pages, a gzip member each
    python pipeline_peer.py copies INPUT.warc.gz COPIES OUTPUT.warc.gz   # each page COPIES times, with other words
    python pipeline_peer.py run INPUT.warc.gz|INPUT.jsonl.gz TOKENIZER.json WORK_DIR [PREP [PASSES]]

    # needs: pip install "datatrove[io,processing]" lxml_html_clean spacy
    # needs: cargo build --release --bin prep

Both read the archive and extract main text (trafilatura, precision, no comments), or read documents with `text` and `url`;
filter by Gopher's repetition and quality
rules, C4's without terminal punctuation and FineWeb's, mask e-mail and IP addresses, drop near-duplicates (word 5-grams, 14
bands of 8), and tokenise with the same tokenizer.json. Neither looks at lists of addresses or identifies languages:
datatrove's model for that has to be fetched. Masking comes before deduplication here and after it there, as each has it.
They take turns, three times unless told otherwise; of each the fastest pass counts, in seconds of user and system time with
all child processes.
Prints Markdown: what each stage left, by how many addresses the results differ, and the times.
"""
import gzip, json, os, pathlib, random, re, resource, subprocess, sys, zlib

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
STAGES = ["extract", "gopher_repetition", "gopher_quality", "c4", "fineweb", "deduplicate"]


def make(archive, pages):
    with open(archive, "wb") as out:
        for i, path in enumerate(pages):
            data = pathlib.Path(path).read_bytes()
            page = gzip.decompress(data) if path.endswith(".gz") else data
            http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
            head = (f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{i:032x}>\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
                    f"WARC-Target-URI: http://example.com/{i}\r\nContent-Type: application/http; msgtype=response\r\n"
                    f"Content-Length: {len(http)}\r\n\r\n")
            out.write(gzip.compress(head.encode() + http + b"\r\n\r\n", mtime=0))


def members(archive):
    """What is in each gzip member."""
    rest = pathlib.Path(archive).read_bytes()
    while rest:
        member = zlib.decompressobj(31)
        yield member.decompress(rest)
        rest = member.unused_data


def copies(archive, count, output):
    """The records of an archive that `make` wrote, `count` times. In each copy but the first every word of five to twelve small
    letters is another one of that length, the same everywhere, so that no copy is a duplicate of another."""
    markup = re.compile(rb"(?s)(<script\b.*?</script>|<style\b.*?</style>|<!--.*?-->|<[^>]*>)")
    word = re.compile(rb"\b[a-z]{5,12}\b")
    records = [record.split(b"\r\n\r\n", 2) for record in members(archive)]
    words = sorted({found for *_, page in records for found in word.findall(markup.sub(b" ", page))})
    with open(output, "wb") as out:
        for i in range(int(count)):
            others = {length: [word for word in words if len(word) == length] for length in range(5, 13)}
            for same in others.values():
                random.Random(i).shuffle(same)
            turn = {length: iter(same) for length, same in others.items()}
            table = {word: next(turn[len(word)]) if i else word for word in words}
            for head, http, page in records:
                parts = markup.split(page)
                parts[::2] = (word.sub(lambda found: table.get(found[0], found[0]), text) for text in parts[::2])
                head = head.replace(b"http://example.com/", b"http://example.com/%d/" % i)
                record = b"\r\n\r\n".join([head, http, b"".join(parts)])
                out.write(gzip.compress(record, mtime=0))


def end_token(tokenizer):
    """The special token that says so."""
    return next(token["content"] for token in json.load(open(tokenizer))["added_tokens"] if "end" in token["content"])


def datatrove(archive, tokenizer, work):
    """One pass, in a separate process."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import (C4QualityFilter, FineWebQualityFilter, GopherQualityFilter,
                                            GopherRepetitionFilter)
    from datatrove.pipeline.formatters import PIIFormatter
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.pipeline.writers import JsonlWriter

    def stage(name, pipeline, tasks=1):
        executor = LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{work}/logs/{name}")
        return executor.run()

    folder, name = str(pathlib.Path(archive).parent), pathlib.Path(archive).name
    pages = [WarcReader(folder, glob_pattern=name), Trafilatura(favour_precision=True, deduplicate=False, timeout=60)]
    documents = [JsonlReader(folder, glob_pattern=name)]
    stage("clean", [*(documents if name.endswith(".jsonl.gz") else pages), GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(filter_no_terminal_punct=False),
                    FineWebQualityFilter(), JsonlWriter(f"{work}/clean")])
    stage("signatures", [JsonlReader(f"{work}/clean"), MinhashDedupSignature(f"{work}/signatures")])
    stage("buckets", [MinhashDedupBuckets(f"{work}/signatures", f"{work}/buckets")], tasks=14)
    stage("clusters", [MinhashDedupCluster(f"{work}/buckets", f"{work}/remove")])
    stage("tokens", [JsonlReader(f"{work}/clean"), MinhashDedupFilter(f"{work}/remove"), PIIFormatter(),
                     JsonlWriter(f"{work}/kept"),
                     DocumentTokenizer(f"{work}/tokens", tokenizer_name_or_path=tokenizer, shuffle_documents=False,
                                       eos_token=end_token(tokenizer))])


def datatrove_result(work):
    """Documents left by each stage, addresses kept, tokens."""
    stats = lambda name: json.load(open(f"{work}/logs/{name}/stats.json"))
    clean = stats("clean")

    def count(step, key):
        value = step["stats"].get(key, 0)
        return value["total"] if isinstance(value, dict) else value

    left = [count(step, "forwarded") for step in clean[-6:-1]]
    if len(clean) < 7:  # Nothing was extracted: the reader's documents.
        left[0] = count(clean[0], "documents")
    addresses = set()
    for path in pathlib.Path(f"{work}/kept").glob("*.jsonl.gz"):
        addresses |= {json.loads(line)["metadata"]["url"] for line in gzip.open(path)}
    tokens = sum(path.stat().st_size // 2 for path in pathlib.Path(f"{work}/tokens").glob("*.ds"))
    return dict(zip(STAGES, left + [len(addresses)])), addresses, tokens


CONFIG = """
[filter]
preset = "fineweb"
url.enabled = false
language.enabled = false
[dedup]
near = true
[tokenizer]
path = {tokenizer}
eos = {eos}
[output]
validation_fraction = 0
[prep]
threads = 1
"""


def fathom_result(work):
    """The same of ours, by the documents that were dropped."""
    lines = lambda path: subprocess.run(["zstd", "-dc", path], check=True, stdout=subprocess.PIPE).stdout.splitlines()
    manifest = json.load(open(f"{work}/manifest.json"))
    stages = {stage["name"]: stage for stage in manifest["stages"]}
    left = stages.get("extract", stages["read"])["kept"]
    result = {"extract": left}
    for group in STAGES[1:5]:
        left -= sum(n for rule, n in stages["filter"]["dropped"].items() if rule.split(".")[0] == group)
        result[group] = left
    result["deduplicate"] = stages["deduplicate"]["kept"]
    documents = [json.loads(line) for path in sorted(map(str, pathlib.Path(work).glob("train-*.docs.jsonl.zst"))) for line in lines(path)]
    return result, {document["url"] for document in documents}, manifest["train"]["tokens"]


def timed(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(archive, tokenizer, work, prep="target/release/prep", passes="3"):
    work = pathlib.Path(work)
    work.mkdir(parents=True, exist_ok=True)
    ours, theirs = [], []
    for i in range(int(passes)):
        output = work / f"fathom-{i}"
        config = work / f"fathom-{i}.toml"
        config.write_text(CONFIG.format(tokenizer=json.dumps(tokenizer), eos=json.dumps(end_token(tokenizer))))
        ours.append(timed([prep, "--config", config, "--input", archive, "--output", output]))
        theirs.append(timed([sys.executable, __file__, "datatrove", archive, tokenizer, str(work / f"datatrove-{i}")]))
    mine, my_addresses, my_tokens = fathom_result(output)
    peers, peer_addresses, peer_tokens = datatrove_result(work / f"datatrove-{i}")
    print("| documents left by | fathom | datatrove |\n|---|---|---|")
    for stage in STAGES:
        print(f"| {stage} | {mine[stage]} | {peers[stage]} |")
    print(f"| tokens | {my_tokens} | {peer_tokens} |")
    print(f"\nBoth keep {len(my_addresses & peer_addresses)} documents; {len(my_addresses - peer_addresses)} only fathom, "
          f"{len(peer_addresses - my_addresses)} only datatrove.")
    print("\n| | seconds of a processor | every pass |\n|---|---|---|")
    for name, seconds in (("fathom", ours), ("datatrove", theirs)):
        print(f"| {name} | {min(seconds):.2f} | {', '.join(f'{s:.2f}' for s in seconds)} |")
    ratios = ", ".join(f"{their / our:.1f}" for our, their in zip(ours, theirs))
    print(f"\n{min(theirs) / min(ours):.0f} times as fast; pass by pass: {ratios}.")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "make":
        make(arguments[0], arguments[1:])
    else:
        {"run": run, "datatrove": datatrove, "copies": copies}[command](*arguments)
