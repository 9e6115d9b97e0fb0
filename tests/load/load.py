#!/usr/bin/env python3
"""Loads a server that speaks OpenAI's protocol, and checks every answer against the same request alone.

N streams send completions of token ids for some seconds, each the next one as soon as its last one ends; sampling is
greedy and the number of new tokens fixed, so that every request has one right answer. First each different request is
sent alone, one after another, to learn it. Only Python's standard library is used.

    python3 tests/load/load.py --url http://127.0.0.1:8080 --streams 64 --seconds 300 --pid "$(pgrep -x serve)"

Exits with 1 if a request failed or an answer differed (--count-differences: only if one failed).
"""

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import random
import sys
import time
from urllib.parse import urlsplit


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the server, without /v1 (default: %(default)s)")
    parser.add_argument("--streams", type=int, default=64, help="requests at the same time (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="how long it lasts (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=128, help="different requests (default: %(default)s)")
    parser.add_argument("--prompt", default="64:256", metavar="A:B", help="tokens of a prompt (default: %(default)s)")
    parser.add_argument("--new", default="32:128", metavar="A:B", help="new tokens of an answer (default: %(default)s)")
    parser.add_argument("--tokens", default="256:32000", metavar="A:B", help="token ids of prompts, B not included "
                        "(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the requests (default: %(default)s)")
    parser.add_argument("--extra", type=json.loads, default={}, metavar="JSON", help="fields to add to every request")
    parser.add_argument("--expected", metavar="FILE", help="answers of the requests alone: read if they are of these "
                        "requests, else written")
    parser.add_argument("--count-differences", action="store_true", help="answers may differ: for servers whose "
                        "batches change bits")
    parser.add_argument("--unchecked", action="store_true", help="send nothing alone, compare nothing")
    parser.add_argument("--pid", type=int, help="process of the server, whose memory is watched")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one answer (default: %(default)s)")
    return parser.parse_args()


def span(text):
    low, high = (int(part) for part in text.split(":"))
    return low, high


def make_requests(arguments):
    """The different requests: the same ones for the same arguments."""
    chance = random.Random(arguments.seed)
    (short, long), (few, many), (first, end) = span(arguments.prompt), span(arguments.new), span(arguments.tokens)
    return [
        {
            "prompt": [chance.randrange(first, end) for _ in range(chance.randint(short, long))],
            "max_tokens": chance.randint(few, many),
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **arguments.extra,
        }
        for _ in range(arguments.requests)
    ]


class Failed(Exception):
    """An error in place of an answer."""


FAILURES = (Failed, OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError)


class Answer:
    """An answer, and when its parts came."""

    def __init__(self):
        self.text, self.finish, self.usage = [], None, {}
        self.sent, self.times = time.monotonic(), []

    def take(self, event):
        if "error" in event:
            raise Failed(f"error in the stream: {event['error']}")
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices", []):
            self.finish = choice.get("finish_reason") or self.finish
            # The last piece may have no token.
            if choice.get("text") or not choice.get("finish_reason"):
                self.text.append(choice.get("text") or "")
                self.times.append(time.monotonic())

    @property
    def generated(self):
        """Its tokens, or its pieces where it was cut: each token has its own."""
        return self.usage.get("completion_tokens", len(self.times))

    @property
    def cached(self):
        return (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


class Stream:
    """A client that sends one request after another, each over its own connection."""

    def __init__(self, url, timeout):
        parts = urlsplit(url)
        self.host, self.port, self.path = parts.hostname, parts.port or 80, parts.path.rstrip("/") + "/v1/completions"
        self.timeout, self.answer = timeout, None
        key = os.environ.get("FATHOM_API_KEY")
        self.key = f"Authorization: Bearer {key}\r\n" if key else ""

    async def ask(self, request):
        """The answer of a request, or one of FAILURES; what came so far is in self.answer meanwhile."""
        self.answer = Answer()
        async with asyncio.timeout(self.timeout):
            reader, writer = await asyncio.open_connection(self.host, self.port, limit=1 << 24)
            try:
                await self.exchange(reader, writer, request)
            finally:
                writer.close()
        answer, self.answer = self.answer, None
        return answer

    async def exchange(self, reader, writer, request):
        body = json.dumps(request).encode()
        head = (f"POST {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
                f"Connection: close\r\n{self.key}Content-Length: {len(body)}\r\n\r\n")
        writer.write(head.encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head.split(" ", 2)[1])
        if status != 200:
            raise Failed(f"status {status}: {(await reader.read(1000)).decode(errors='replace')}")
        if "transfer-encoding: chunked" not in head:
            raise Failed("the answer is not a stream of chunks")
        pending, done, answer = b"", False, self.answer
        async for chunk in chunks(reader):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
                done = done or data == b"[DONE]"
                if data and data != b"[DONE]":
                    answer.take(json.loads(data))
        if not done:
            raise Failed("the stream ended without [DONE]")
        if answer.finish is None or "completion_tokens" not in answer.usage:
            raise Failed("the answer has no finish_reason or no usage")
        if answer.generated != request["max_tokens"]:
            raise Failed(f"{answer.generated} tokens came instead of {request['max_tokens']}")


async def chunks(reader):
    """The chunks of a body."""
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        chunk = await reader.readexactly(size + 2)
        if size == 0:
            return
        yield chunk[:-2]


async def alone(arguments, requests):
    """The text of every request, sent while there is no other. Goes on where an earlier run was stopped."""
    made_of, texts = hashlib.sha256(json.dumps(requests).encode()).hexdigest(), []
    if arguments.expected and os.path.exists(arguments.expected):
        with open(arguments.expected) as file:
            known = json.load(file)
        texts = known["texts"] if known["requests"] == made_of else []
    stream, began, rest = Stream(arguments.url, arguments.timeout), time.monotonic(), requests[len(texts):]
    for request in rest:
        texts.append("".join((await stream.ask(request)).text))
        if arguments.expected:
            with open(arguments.expected + ".new", "w") as file:
                json.dump({"requests": made_of, "texts": texts}, file)
            os.replace(arguments.expected + ".new", arguments.expected)
    tokens, seconds = sum(request["max_tokens"] for request in rest), time.monotonic() - began
    if rest:
        print(f"alone: {len(rest)} requests, {tokens} tokens generated in {seconds:.0f} s, {tokens / seconds:.1f}/s")
    return texts


class Memory:
    """The resident memory of a process, over time."""

    def __init__(self, pid):
        self.pid, self.samples = pid, []

    async def watch(self):
        while self.pid:
            try:
                with open(f"/proc/{self.pid}/status") as status:
                    kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
            except (OSError, StopIteration):
                return
            self.samples.append((time.monotonic(), kib / 1024))
            await asyncio.sleep(0.5)

    def peak(self, begin, end):
        return max((mib for when, mib in self.samples if begin <= when <= end), default=float("nan"))


def percentiles(name, seconds):
    ranked = sorted(seconds)
    if not ranked:
        return f"{name}: none"
    at = {f"p{p}": 1000 * ranked[min(len(ranked) - 1, int(p / 100 * len(ranked)))] for p in (50, 90, 99)}
    at["most"] = 1000 * ranked[-1]
    return f"{name}, ms: " + ", ".join(f"{name} {value:.0f}" for name, value in at.items())


async def main():
    arguments = parse_arguments()
    requests = make_requests(arguments)
    try:
        expected = None if arguments.unchecked else await alone(arguments, requests)
    except FAILURES as error:
        sys.exit(f"no answer from {arguments.url}: {type(error).__name__} {error}")
    order, memory = itertools.count(), Memory(arguments.pid)
    answers, cut, errors, different = [], [], [], []

    def check(number, answer, whole):
        text = "".join(answer.text)
        if expected and not (text == expected[number] if whole else expected[number].startswith(text)):
            different.append(number)

    async def stream():
        client = Stream(arguments.url, arguments.timeout)
        while True:
            number = next(order) % len(requests)
            try:
                answer = await client.ask(requests[number])
            except FAILURES as error:
                errors.append(f"request {number}: {type(error).__name__} {error}")
                await asyncio.sleep(0.1)
                continue
            except asyncio.CancelledError:
                cut.append((number, client.answer))
                return
            answers.append((number, answer))
            check(number, answer, True)

    watching = asyncio.create_task(memory.watch())
    began = time.monotonic()
    streams = [asyncio.create_task(stream()) for _ in range(arguments.streams)]
    await asyncio.sleep(arguments.seconds)
    ended = time.monotonic()
    watching.cancel()
    # The server drops what nobody waits for; what came counts, and must be the beginning of the answer.
    for task in streams:
        task.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    cut = [(number, answer) for number, answer in cut if answer and answer.times]
    for number, answer in cut:
        check(number, answer, False)

    seconds, all_of_them = ended - began, answers + cut
    generated = sum(answer.generated for _, answer in all_of_them)
    prompts = sum(len(requests[number]["prompt"]) for number, _ in all_of_them)
    cached = sum(answer.cached for _, answer in answers)
    compared = f"{len(different)} differ from the same request alone" if expected else "none compared"
    print(f"{arguments.streams} streams for {seconds:.0f} s: {len(answers)} answers, {len(cut)} more begun, "
          f"{len(errors)} failed, {compared}")
    print(f"generated tokens: {generated / seconds:.1f}/s")
    print(f"prompt tokens: {prompts / seconds:.1f}/s, of which {cached / seconds:.1f}/s were found in the cache")
    print(percentiles("time to first token", [a.times[0] - a.sent for _, a in all_of_them if a.times]))
    paces = [(a.times[-1] - a.times[0]) / (len(a.times) - 1) for _, a in all_of_them if len(a.times) > 1]
    print(percentiles("time per output token", paces))
    if arguments.pid:
        first, last = memory.peak(began, began + 60), memory.peak(ended - 60, ended)
        print(f"resident memory, MiB: peak {first:.0f} in the first minute, {last:.0f} in the last")
    for line in errors[:10] + [f"request {number} differs" for number in different[:10]]:
        print(line, file=sys.stderr)
    if errors or not answers or (different and not arguments.count_differences):
        sys.exit(1)


if __name__ == "__main__":
    asyncio.run(main())
