"""LiteLLM against a running server: completions, streams, asynchronous calls and errors.

    pip install litellm==1.110.2
    python tests/clients/litellm_client.py target/release/serve
"""

import asyncio
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402

from server import Server, run  # noqa: E402

server = Server()
OWN = {"model": "openai/small", "api_base": server.url, "api_key": "none", "max_retries": 0}
TEXT = {**OWN, "model": "text-completion-openai/small"}
MESSAGES = [{"role": "user", "content": "Who goes there?"}]


def chats():
    """chats: text, usage, n, fields beyond OpenAI's"""
    answer = litellm.completion(**OWN, messages=MESSAGES, max_tokens=20, seed=1, n=2)
    assert len(answer.choices) == 2 and answer.usage.completion_tokens > 20
    assert answer.choices[0].message.content != answer.choices[1].message.content
    greedy = [
        litellm.completion(**OWN, messages=MESSAGES, max_tokens=9, **more).choices[0].message.content
        for more in ({"temperature": 0}, {"extra_body": {"top_k": 1}})
    ]
    assert greedy[0] == greedy[1]


def streams():
    """streams: the pieces are the whole answer, usage comes last"""
    whole = litellm.completion(**OWN, messages=MESSAGES, max_tokens=30, seed=3)
    options = {"include_usage": True}
    pieces = list(litellm.completion(**OWN, messages=MESSAGES, max_tokens=30, seed=3, stream=True, stream_options=options))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == whole.choices[0].message.content
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
    rebuilt = litellm.stream_chunk_builder(pieces, messages=MESSAGES)
    assert rebuilt.choices[0].message.content == text


def reasoning():
    """reasoning comes as reasoning_content"""
    body = {"chat_template_kwargs": {"thinking": True}}
    message = litellm.completion(**OWN, messages=MESSAGES, max_tokens=20, seed=2, extra_body=body).choices[0].message
    assert len(message.reasoning_content) > 5 and not message.content


def asynchronous():
    """asynchronous calls side by side"""
    async def several():
        calls = (litellm.acompletion(**OWN, messages=MESSAGES, max_tokens=12, seed=seed) for seed in range(6))
        return [answer.choices[0].message.content for answer in await asyncio.gather(*calls)]

    assert asyncio.run(several()) == asyncio.run(several())


def texts():
    """text completions: whole, and in pieces"""
    whole = litellm.text_completion(**TEXT, prompt="The king", max_tokens=12, seed=1).choices[0].text
    pieces = litellm.text_completion(**TEXT, prompt="The king", max_tokens=12, seed=1, stream=True)
    assert "".join(piece.choices[0].text or "" for piece in pieces) == whole


def errors():
    """errors are LiteLLM's own classes"""
    for kind, change in [
        (litellm.ContextWindowExceededError, {"messages": [{"role": "user", "content": "a b " * 30000}]}),
        (litellm.BadRequestError, {"n": 100}),
        (litellm.NotFoundError, {"model": "openai/gpt"}),
    ]:
        try:
            litellm.completion(**{**OWN, "messages": MESSAGES, **change})
        except kind:
            continue
        raise AssertionError(f"{kind.__name__} is not raised")


with server:
    run([chats, streams, reasoning, asynchronous, texts, errors])
