"""Agreement of the filters with datatrove, rule by rule.

    python filter_parity.py DOCUMENTS.jsonl WORK_DIR [FILTER_VERDICTS [GOLDEN.jsonl]]

    # needs: pip install datatrove spacy tldextract pyahocorasick fasteners
    # needs: cargo build --release -p fathom-dataprep --example filter_verdicts

DOCUMENTS.jsonl has an object with `text` and perhaps `url` and `source` a line. Each rule is judged on its own, with all others turned
off, so that none hides another. Every document is judged three times: by fathom, by datatrove, and by datatrove with
fathom's words in place of spaCy's. A document on which the first two differ and the first and third agree differs because
of word splitting alone; the last column counts what remains. Prints a Markdown table; WORK_DIR/disagreements.jsonl lists
every one. GOLDEN.jsonl gets our configuration of each rule and, for every document, the rules by which datatrove drops it.
"""
import collections, functools, hashlib, json, pathlib, re, subprocess, sys, time, unicodedata

from datatrove.data import Document
from datatrove.pipeline.filters import (C4QualityFilter, FineWebQualityFilter, GopherQualityFilter,
                                        GopherRepetitionFilter, URLFilter)
from datatrove.pipeline.filters import c4_filters, fineweb_quality_filter, gopher_quality_filter
from datatrove.pipeline.filters import gopher_repetition_filter
from datatrove.pipeline.formatters.pii import PIIFormatter
from datatrove.utils.text import TERMINAL_PUNCTUATION, split_into_sentences, split_into_words
from tldextract import TLDExtract

documents_path, work = sys.argv[1], pathlib.Path(sys.argv[2])
program = sys.argv[3] if len(sys.argv) > 3 else "target/release/examples/filter_verdicts"
golden = sys.argv[4] if len(sys.argv) > 4 else None
work.mkdir(parents=True, exist_ok=True)
documents = [json.loads(line) for line in open(documents_path, encoding="utf-8")]

REPETITION = {"dup_paragraph_fraction": dict(dup_para_frac=0.3), "dup_paragraph_char_fraction": dict(dup_para_char_frac=0.2),
              "dup_line_fraction": dict(dup_line_frac=0.3), "dup_line_char_fraction": dict(dup_line_char_frac=0.2)}
for n, limit in ((2, 0.2), (3, 0.18), (4, 0.16)):
    REPETITION[f"top_{n}_gram"] = dict(top_n_grams=((n, limit),))
for n, limit in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1)):
    REPETITION[f"dup_{n}_gram"] = dict(dup_n_grams=((n, limit),))
REPETITION_OFF = dict(dup_line_frac=None, dup_para_frac=None, dup_line_char_frac=None, dup_para_char_frac=None,
                      top_n_grams=(), dup_n_grams=())
QUALITY = {"min_words": dict(min_doc_words=50), "max_words": dict(max_doc_words=100000),
           "min_mean_word_length": dict(min_avg_word_length=3), "max_mean_word_length": dict(max_avg_word_length=10),
           "max_hash_ratio": None, "max_ellipsis_ratio": None,  # one parameter of datatrove: see below
           "max_bullet_lines": dict(max_bullet_lines_ratio=0.9), "max_ellipsis_lines": dict(max_ellipsis_lines_ratio=0.3),
           "min_alphabetic_words": dict(max_non_alpha_words_ratio=0.8), "min_stop_words": dict(min_stop_words=2)}
QUALITY_OFF = dict(min_doc_words=None, max_doc_words=None, min_avg_word_length=None, max_avg_word_length=None,
                   max_symbol_word_ratio=None, max_bullet_lines_ratio=None, max_ellipsis_lines_ratio=None,
                   max_non_alpha_words_ratio=None, min_stop_words=None)
C4 = {"max_word_length": dict(max_word_length=1000), "remove_citations": dict(remove_citations=True),
      "terminal_punctuation": dict(filter_no_terminal_punct=True), "min_words_per_line": dict(min_words_per_line=3),
      "javascript": dict(filter_javascript=True), "policy": dict(filter_policy=True),
      "lorem_ipsum": dict(filter_lorem_ipsum=True), "curly_bracket": dict(filter_curly_bracket=True),
      "min_sentences": dict(min_num_sentences=5)}
C4_OFF = dict(max_word_length=-1, remove_citations=False, filter_no_terminal_punct=False, min_words_per_line=-1,
              filter_javascript=False, filter_policy=False, filter_lorem_ipsum=False, filter_curly_bracket=False,
              min_num_sentences=-1)
FINEWEB = {"min_terminal_lines": dict(line_punct_thr=0.12), "max_short_lines": dict(short_line_thr=0.67),
           "max_dup_line_chars": dict(char_duplicates_ratio=0.01), "max_newlines_per_word": dict(new_line_ratio=0.3)}
FINEWEB_OFF = dict(line_punct_thr=0.0, short_line_thr=1.0, char_duplicates_ratio=1e9, new_line_ratio=1e9)
OURS = {"gopher_repetition": {"dup_paragraph_fraction": 0.3, "dup_paragraph_char_fraction": 0.2, "dup_line_fraction": 0.3,
                              "dup_line_char_fraction": 0.2, "top_2_gram": 0.2, "top_3_gram": 0.18, "top_4_gram": 0.16,
                              "dup_5_gram": 0.15, "dup_6_gram": 0.14, "dup_7_gram": 0.13, "dup_8_gram": 0.12,
                              "dup_9_gram": 0.11, "dup_10_gram": 0.1},
        "gopher_quality": {"min_words": 50, "max_words": 100000, "min_mean_word_length": 3, "max_mean_word_length": 10,
                           "max_hash_ratio": 0.1, "max_ellipsis_ratio": 0.1, "max_bullet_lines": 0.9,
                           "max_ellipsis_lines": 0.3, "min_alphabetic_words": 0.8, "min_stop_words": 2},
        "c4": {"max_word_length": 1000, "remove_citations": True, "terminal_punctuation": True, "min_words_per_line": 3,
               "javascript": True, "policy": True, "lorem_ipsum": True, "curly_bracket": True, "min_sentences": 5},
        "fineweb": {"min_terminal_lines": 0.12, "max_short_lines": 0.67, "max_dup_line_chars": 0.01,
                    "max_newlines_per_word": 0.3}}
GROUPS = ("url", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb", "pii")


def only(group, settings):
    """Our configuration with one group, and in it only these rules."""
    config = {name: {"enabled": False} for name in GROUPS}
    config[group] = {key: False for key in OURS.get(group, {})} | {"enabled": True} | settings
    return config


class SymbolRatio:
    """One of the two rules that share a parameter in datatrove."""
    def __init__(self, symbols):
        self.symbols = symbols

    def filter(self, document):
        words = gopher_quality_filter.split_into_words(document.text, "en")
        return sum(document.text.count(s) for s in self.symbols) / len(words) <= 0.1


class Lists(URLFilter):
    """Without a look for a newer Public Suffix List on the network."""
    def __init__(self, **lists):
        super().__init__(use_integrated_lists=False, **lists)
        self.tldextractor = TLDExtract(suffix_list_urls=())


class Mask:
    def filter(self, document):
        document.text = PIIFormatter().format(document.text)
        return True


configs, peers = {}, {}
for rule, settings in REPETITION.items():
    name = f"gopher_repetition.{rule}"
    configs[name] = only("gopher_repetition", {rule: OURS["gopher_repetition"][rule]})
    peers[name] = lambda s=settings: GopherRepetitionFilter(**REPETITION_OFF | s)
for rule, settings in QUALITY.items():
    name = f"gopher_quality.{rule}"
    configs[name] = only("gopher_quality", {rule: OURS["gopher_quality"][rule]})
    peers[name] = lambda s=settings: GopherQualityFilter(**QUALITY_OFF | s)
peers["gopher_quality.max_hash_ratio"] = lambda: SymbolRatio(["#"])
peers["gopher_quality.max_ellipsis_ratio"] = lambda: SymbolRatio(["...", "…"])
for rule, settings in C4.items():
    configs[f"c4.{rule}"] = only("c4", {rule: OURS["c4"][rule]})
    peers[f"c4.{rule}"] = lambda s=settings: C4QualityFilter(**C4_OFF | s)
for rule, settings in FINEWEB.items():
    configs[f"fineweb.{rule}"] = only("fineweb", {rule: OURS["fineweb"][rule]})
    peers[f"fineweb.{rule}"] = lambda s=settings: FineWebQualityFilter(**FINEWEB_OFF | s)
configs["pii"], peers["pii"] = only("pii", {}), Mask
configs["all but language"] = {"language": {"enabled": False}}

# URL lists made of the documents' own addresses, so that each rule has something to find.
addresses = sorted({d["url"] for d in documents if d.get("url")})
tokens = sorted({word.lower() for a in addresses for word in re.split(r"[^a-zA-Z0-9]+", a) if len(word) > 3})
lists = {"domains": sorted({a.split("/")[2] for a in addresses})[::3], "urls": addresses[::5],
         "words": tokens[::40], "soft_words": tokens[::5], "subwords": tokens[7::60]}
PEER_LISTS = {"domains": "extra_domains", "urls": "extra_urls", "words": "banned_words", "soft_words": "soft_banned_words",
              "subwords": "banned_subwords"}
for rule, entries in lists.items():
    path = work / f"{rule}.txt"
    path.write_text("\n".join(entries) + "\n", encoding="utf-8")
    configs[f"url.{rule}"] = only("url", {rule: [str(path)]})
    peers[f"url.{rule}"] = lambda r=rule, e=entries: Lists(**{PEER_LISTS[r]: e})

(work / "configs.json").write_text(json.dumps(configs))
run = lambda first: subprocess.run([program, first, documents_path], check=True, stdout=subprocess.PIPE, text=True).stdout
ours = [json.loads(line) for line in run(str(work / "configs.json")).splitlines()]
words = {d["text"]: json.loads(line) for d, line in zip(documents, run("--words").splitlines())}


def our_words(text, language=None):
    if text not in words:
        path = work / "one.jsonl"
        path.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
        out = subprocess.run([program, "--words", str(path)], check=True, stdout=subprocess.PIPE, text=True).stdout
        words[text] = json.loads(out)
    return words[text]


def our_sentences(text, language=None):
    """spaCy's sentencizer on our words."""
    count, ended = 1, False
    for word in our_words(text):
        if len(word) == 1 and word in TERMINAL_PUNCTUATION:
            ended = True
        elif ended and not all(unicodedata.category(c)[0] == "P" for c in word):
            count, ended = count + 1, False
    return [""] * count


spacy_words = functools.cache(split_into_words)
spacy_sentences = functools.cache(split_into_sentences)


def use(split, sentences):
    for module in (gopher_repetition_filter, gopher_quality_filter, fineweb_quality_filter):
        module.split_into_words = split
    c4_filters.split_into_sentences = sentences


def verdict(peer, document):
    copy = Document(text=document["text"], id="0", metadata={"url": document.get("url")})
    try:
        kept = peer.filter(copy)
    except ZeroDivisionError:  # no words at all
        return "dropped"
    kept = kept[0] if isinstance(kept, tuple) else kept
    return hashlib.sha256(copy.text.encode()).hexdigest() if kept else "dropped"


def judge(name, only_these=None):
    peer = peers[name]()
    for i, document in enumerate(documents):
        if only_these is not None and i not in only_these or name.startswith("url.") and not document.get("url"):
            yield None
        else:
            yield verdict(peer, document)


print("| rule | documents | dropped or changed by fathom | by datatrove | agree | differ | not by word splitting |")
print("|---|---|---|---|---|---|---|")
differing = open(work / "disagreements.jsonl", "w")
dropped = [[] for _ in documents]
for name in [n for n in configs if n in peers]:
    use(spacy_words, spacy_sentences)
    theirs = list(judge(name))
    mine = ["dropped" if isinstance(v[name], list) else v[name] for v in ours]
    for i, t in enumerate(theirs):
        if t == "dropped":
            dropped[i].append(name)
    judged = [i for i, t in enumerate(theirs) if t is not None]
    differ = {i for i in judged if mine[i] != theirs[i]}
    use(our_words, our_sentences)
    with_ours = list(judge(name, differ))
    rest = [i for i in differ if mine[i] != with_ours[i]]
    for i in sorted(differ):
        row = dict(rule=name, id=documents[i].get("id"), fathom=ours[i][name], datatrove=theirs[i], words=i not in rest)
        differing.write(json.dumps(row, ensure_ascii=False) + "\n")
    same = {i: hashlib.sha256(documents[i]["text"].encode()).hexdigest() for i in judged}
    hit = lambda verdicts: sum(verdicts[i] != same[i] for i in judged)
    print(f"| {name} | {len(judged)} | {hit(mine)} | {hit(theirs)} | "
          f"{100 * (1 - len(differ) / max(len(judged), 1)):.2f} % | {len(differ)} | {len(rest)} |", flush=True)

use(split_into_words, split_into_sentences)
chain = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(filter_no_terminal_punct=False),
         FineWebQualityFilter(), Mask()]
started, kept, agree = time.process_time(), 0, 0
by_source = collections.defaultdict(lambda: [0, 0])
for i, document in enumerate(documents):
    copy = Document(text=document["text"], id="0", metadata={})
    try:
        passed = all((r[0] if isinstance(r, tuple) else r) for r in (step.filter(copy) for step in chain))
    except ZeroDivisionError:
        passed = False
    same = passed == (not isinstance(ours[i]["all but language"], list))
    agree += same
    by_source[document.get("source", "")][0] += 1
    by_source[document.get("source", "")][1] += same
    kept += passed
seconds = time.process_time() - started
print(f"\nAll rules but language and lists, in order: {agree} of {len(documents)} verdicts agree, datatrove keeps {kept}, "
      f"fathom {sum(not isinstance(v['all but language'], list) for v in ours)}; datatrove took {seconds:.1f} s of a processor, "
      f"{len(documents) / seconds:.0f} documents/s.")
print("\n| source | documents | same verdict |\n|---|---|---|")
for source, (count, same) in sorted(by_source.items()):
    print(f"| {source} | {count} | {100 * same / count:.1f} % |")

if golden:
    rules = {name: config for name, config in configs.items() if name in peers and not name.startswith("url.")}
    with open(golden, "w", encoding="utf-8") as out:
        out.write(json.dumps(rules) + "\n")
        for document, names in zip(documents, dropped):
            out.write(json.dumps({"text": document["text"], "dropped": names}, ensure_ascii=False) + "\n")
