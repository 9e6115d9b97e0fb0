"""OpenAI's Python library against a running server: what it gets, streams, raises and repeats.

    pip install openai==3.57.0
    python tests/clients/openai_python.py target/release/serve
"""

import asyncio
import json
import re
import threading
import time
import typing

import openai
import pydantic

from server import CONTEXT, Server, run

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who goes there?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
LONG = {"model": "small", "prompt": "a", "max_tokens": CONTEXT - 100, "extra_body": {"ignore_eos": True}}

server = Server()
client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


def raised(kind, call):
    """The error of a call."""
    try:
        call()
    except kind as error:
        assert type(error) is kind, type(error)
        return error
    raise AssertionError(f"{kind.__name__} is not raised")


def models():
    """models: list and retrieve, and another name is not found"""
    listed = client.models.list()
    assert [model.id for model in listed] == ["small"] and listed.data[0].owned_by == "fathom"
    assert client.models.retrieve("small") == listed.data[0]
    error = raised(openai.NotFoundError, lambda: client.models.retrieve("a/b"))
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model")


def completions():
    """completions: text, usage, n, several prompts, token ids, stop, echo with logprobs"""
    one = client.completions.create(model="small", prompt="The king", max_tokens=12, temperature=0)
    assert one.object == "text_completion" and one.choices[0].finish_reason in ("length", "stop")
    assert one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens
    text = one.choices[0].text
    many = client.completions.create(model="small", prompt=["The king", "My lord"], max_tokens=12, temperature=0, n=2)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in many.choices[:2]] == [text, text] and many.choices[2].text != text
    stop = text[3:6]
    cut = client.completions.create(model="small", prompt="The king", max_tokens=12, temperature=0, stop=[stop])
    assert cut.choices[0].text == text.split(stop)[0] and cut.choices[0].finish_reason == "stop"
    scored = client.completions.create(model="small", prompt="The king", max_tokens=2, echo=True, logprobs=3)
    found = scored.choices[0].logprobs
    assert scored.choices[0].text.startswith("The king") and found.token_logprobs[0] is None
    assert len(found.tokens) == len(found.text_offset) == len(found.top_logprobs) == scored.usage.total_tokens
    offsets = zip(found.tokens, found.text_offset)
    assert all(scored.choices[0].text[at:].startswith(token) for token, at in offsets if not token.startswith("bytes:"))
    ids = client.post("/tokenize", cast_to=object, body={"prompt": "The king"})["tokens"]
    again = client.completions.create(model="small", prompt=ids, max_tokens=12, temperature=0)
    assert again.choices[0].text == text


def seeds():
    """the same seed gives the same text, another one another"""
    def text(seed):
        answer = client.chat.completions.create(model="small", messages=MESSAGES, max_tokens=30, seed=seed)
        return answer.choices[0].message.content

    assert text(7) == text(7) != text(8)


def beyond():
    """fields beyond OpenAI's go through extra_body: top_k, min_tokens, stop_token_ids"""
    greedy = client.completions.create(model="small", prompt="The king", max_tokens=9, temperature=0)
    top = client.completions.create(model="small", prompt="The king", max_tokens=9, extra_body={"top_k": 1})
    assert top.choices[0].text == greedy.choices[0].text
    bias = {"40": 100}
    extra = {"stop_token_ids": [40], "min_tokens": 4}
    late = client.completions.create(model="small", prompt="a", max_tokens=9, logit_bias=bias, extra_body=extra)
    assert (late.usage.completion_tokens, late.choices[0].finish_reason) == (5, "stop")


def chats():
    """chats: message, n, logprobs, max_completion_tokens, content in parts"""
    answer = client.chat.completions.create(
        model="small", messages=MESSAGES, max_completion_tokens=8, temperature=0, n=2, logprobs=True, top_logprobs=2
    )
    assert answer.object == "chat.completion" and len(answer.choices) == 2
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.tool_calls is None
    assert len(choice.logprobs.content) in (8, 7) and len(choice.logprobs.content[0].top_logprobs) == 2
    spelled = b"".join(bytes(token.bytes) for token in choice.logprobs.content)
    assert spelled.decode(errors="replace") == choice.message.content
    parts = [dict(message, content=[{"type": "text", "text": message["content"]}]) for message in MESSAGES]
    same = client.chat.completions.create(model="small", messages=parts, max_completion_tokens=8, temperature=0)
    assert same.choices[0].message.content == choice.message.content


def streams():
    """streams: completions and chats in pieces are the whole ones, usage comes last"""
    whole = client.completions.create(model="small", prompt="My lord", max_tokens=40, seed=1, n=2)
    texts, usage = ["", ""], None
    options = {"include_usage": True}
    with client.completions.create(
        model="small", prompt="My lord", max_tokens=40, seed=1, n=2, stream=True, stream_options=options
    ) as pieces:
        for piece in pieces:
            assert usage is None, "nothing comes after the usage"
            for choice in piece.choices:
                texts[choice.index] += choice.text
            usage = piece.usage
    assert texts == [choice.text for choice in whole.choices]
    assert usage.completion_tokens == whole.usage.completion_tokens
    ask = {"model": "small", "messages": MESSAGES, "max_tokens": 40, "seed": 1}
    # The library's helper raises where a text ends by its length.
    ask["stop"] = client.chat.completions.create(**ask).choices[0].message.content[20:23]
    whole = client.chat.completions.create(**ask)
    with client.chat.completions.stream(**ask, stream_options=options) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason and final.usage == whole.usage
    # The helper wants choices to begin in order.
    for seed in range(6):
        with client.chat.completions.stream(**ask | {"seed": seed, "n": 5, "max_tokens": 300}) as events:
            events.until_done()


def asynchronous():
    """the asynchronous client: twelve streams side by side are each what they are alone"""
    async def text(own, seed):
        pieces = await own.completions.create(model="small", prompt="O", max_tokens=30, seed=seed, stream=True)
        return "".join([piece.choices[0].text async for piece in pieces])

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as own:
            return await asyncio.gather(*(text(own, seed) for seed in range(12)))

    alone = [
        client.completions.create(model="small", prompt="O", max_tokens=30, seed=seed).choices[0].text
        for seed in range(12)
    ]
    assert asyncio.run(all_of_them()) == alone


def beginnings():
    """the beginning of an answer is continued where the last message has prefix"""
    begun = [*MESSAGES, {"role": "assistant", "content": "It is", "prefix": True}]
    answer = client.chat.completions.create(model="small", messages=begun, max_tokens=9, temperature=0)
    prompt = "[system]Be brief.[user]Who goes there?[assistant]It is"
    plain = client.completions.create(model="small", prompt=prompt, max_tokens=9, temperature=0)
    assert answer.choices[0].message.content == plain.choices[0].text


def reasoning():
    """reasoning comes as reasoning_content, whole and in pieces"""
    body = {"chat_template_kwargs": {"thinking": True}}
    ask = {"model": "small", "messages": MESSAGES, "max_tokens": 20, "seed": 2, "extra_body": body}
    message = client.chat.completions.create(**ask).choices[0].message
    assert message.content == "" and len(message.reasoning_content) > 5
    pieces = client.chat.completions.create(**ask, stream=True)
    deltas = [piece.choices[0].delta for piece in pieces]
    assert "".join(getattr(delta, "reasoning_content", "") for delta in deltas) == message.reasoning_content


def tools():
    """tools reach the template, and calls are text that the client reads itself"""
    def read(text):
        return [json.loads(call) for call in re.findall(r"<call>(.*?)</call>", text)]

    with_tools = client.chat.completions.create(model="small", messages=MESSAGES, tools=[TOOL], max_tokens=9, seed=1)
    without = client.chat.completions.create(
        model="small", messages=MESSAGES, tools=[TOOL], tool_choice="none", max_tokens=9, seed=1
    )
    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens + 50
    assert with_tools.choices[0].message.tool_calls is None and read(with_tools.choices[0].message.content) == []
    # A model that calls writes text; here the prompt does it for the model.
    call = '<call>{"name": "weather", "arguments": {"place": "Elsinore"}}</call>'
    spoken = client.completions.create(model="small", prompt=call, max_tokens=1, echo=True).choices[0].text
    [parsed] = read(spoken)
    function = {"name": parsed["name"], "arguments": json.dumps(parsed["arguments"])}
    further = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]
    answer = client.chat.completions.create(model="small", messages=further, tools=[TOOL], max_tokens=9)
    assert answer.usage.prompt_tokens > with_tools.usage.prompt_tokens + 20


class Prose(pydantic.BaseModel, extra="forbid"):
    """One kind of a work."""

    kind: typing.Literal["prose"]
    pages: typing.Annotated[int, pydantic.Field(ge=1, le=999)]


class Verse(pydantic.BaseModel, extra="forbid"):
    """The other kind. Where more fields were allowed, a small model would go on with them."""

    kind: typing.Literal["verse"]
    rhymes: bool


class Shelf(pydantic.BaseModel):
    """What an answer is read into; its schema has references and a union."""

    works: typing.Annotated[list[Prose | Verse], pydantic.Field(min_length=1, max_length=3)]
    status: typing.Literal["full", "empty"] | None


def forms():
    """answers of a schema are what the library reads into its own class; also in a stream, and any JSON object"""
    ask = {"model": "small", "messages": MESSAGES, "max_tokens": 400}
    for seed in range(5):
        answer = client.chat.completions.parse(**ask, seed=seed, response_format=Shelf)
        shelf = answer.choices[0].message.parsed
        assert answer.choices[0].finish_reason == "stop" and 1 <= len(shelf.works) <= 3
    with client.chat.completions.stream(**ask, seed=4, response_format=Shelf) as events:
        events.until_done()
        assert events.get_final_completion().choices[0].message.parsed == shelf
    tagged = pydantic.TypeAdapter(typing.Annotated[Prose | Verse, pydantic.Field(discriminator="kind")])
    form = {"type": "json_schema", "json_schema": {"name": "work", "schema": tagged.json_schema()}}
    text = client.chat.completions.create(**ask, seed=1, response_format=form).choices[0].message.content
    assert tagged.validate_json(text)
    any_object = client.completions.create(
        model="small", prompt="a", max_tokens=300, temperature=0, extra_body={"response_format": {"type": "json_object"}}
    ).choices[0]
    assert any_object.finish_reason == "length" or isinstance(json.loads(any_object.text), dict)
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"type": "string"}}}}
    error = raised(openai.BadRequestError, lambda: client.chat.completions.create(**ask, response_format=wrong))
    assert error.param == "response_format.json_schema.schema" and "not" in error.message


def errors():
    """errors are the library's own classes, with param and code"""
    error = raised(openai.BadRequestError, lambda: client.completions.create(model="small", prompt="a", n=100))
    assert (error.status_code, error.param, error.type) == (400, "n", "invalid_request_error")
    assert "n: 100: must be from 1 to 8" in error.message
    too_long = [1] * (CONTEXT + 1)
    error = raised(openai.BadRequestError, lambda: client.completions.create(model="small", prompt=too_long))
    assert (error.code, error.param) == ("context_length_exceeded", "prompt")
    wrong = [{"role": "user"}]
    error = raised(openai.BadRequestError, lambda: client.chat.completions.create(model="small", messages=wrong))
    assert error.param == "messages[0].content"
    error = raised(openai.NotFoundError, lambda: client.completions.create(model="gpt-4", prompt="a"))
    assert error.code == "model_not_found"
    error = raised(openai.NotFoundError, lambda: client.embeddings.create(model="small", input="a"))
    assert error.code == "route_not_found"
    error = raised(openai.APIStatusError, lambda: client.post("/models", cast_to=object, body={}))
    assert (error.status_code, error.code) == (405, "method_not_allowed")
    with Server("--api-key", "secret") as locked:
        for key in ("", "none", "secret2"):
            call = openai.OpenAI(base_url=locked.url, api_key=key or "x", max_retries=0).models.list
            assert raised(openai.AuthenticationError, call).code == "invalid_api_key"
        assert openai.OpenAI(base_url=locked.url, api_key="secret").models.list().data[0].id == "small"


def queue():
    """a full queue is RateLimitError, and the library's own repetition waits as Retry-After says"""
    with Server("--parallel", "1", "--queue", "0") as small:
        own = openai.OpenAI(base_url=small.url, api_key="none", max_retries=0)
        running = own.completions.create(**LONG, stream=True)
        next(iter(running))
        ask = {"model": "small", "prompt": "b", "max_tokens": 2}
        error = raised(openai.RateLimitError, lambda: own.completions.create(**ask))
        assert error.code == "queue_full" and error.response.headers["retry-after"] == "1"
        began = time.time()
        threading.Timer(0.3, running.close).start()
        assert own.with_options(max_retries=2).completions.create(**ask).usage.completion_tokens > 0
        assert 0.9 < time.time() - began < 6, "the first repetition comes after a second"


def aborts():
    """a stream that is closed, and a request that times out, give their places back"""
    running = client.completions.create(**LONG, stream=True)
    next(iter(running))
    server.wait_for("fathom_requests_running", 1)
    running.close()
    server.wait_for("fathom_requests_running", 0)
    began = time.time()
    quick = client.with_options(timeout=0.5)
    raised(openai.APITimeoutError, lambda: quick.completions.create(**LONG))
    assert time.time() - began < 3
    server.wait_for("fathom_requests_running", 0)


def raw():
    """with_raw_response: headers, status and the parsed answer"""
    response = client.completions.with_raw_response.create(model="small", prompt="a", max_tokens=3)
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    assert response.parse().choices[0].text == json.loads(response.text)["choices"][0]["text"]
    with client.completions.with_streaming_response.create(model="small", prompt="a", max_tokens=3, stream=True) as live:
        lines = [line for line in live.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)


with server:
    run([
        models, completions, seeds, beyond, chats, streams, asynchronous, beginnings, reasoning, tools, forms, errors,
        queue, aborts, raw,
    ])
