// OpenAI's Node library against a running server: what it gets, streams, raises and repeats.
//
//     npm install openai@6.49.0                  # in any folder; the script is run from there
//     node tests/clients/openai_node.mjs target/release/serve

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

// The library lies in the folder that the script is run from.
const require = createRequire(join(process.cwd(), "package.json"));
const OpenAI = require("openai");

const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const program = process.argv[2] ?? join(root, "target/release/serve");
const CONTEXT = 20000;
const TEMPLATE =
  "{% if tools %}[tools]{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}]{{ m.content or '' }}" +
  "{% endfor %}{% if add_generation_prompt %}[assistant]{% if thinking %}<think>{% endif %}{% endif %}";
const messages = [{ role: "user", content: "Who goes there?" }];

async function serve(...options) {
  const folder = mkdtempSync(join(tmpdir(), "fathom-"));
  cpSync(join(root, "tests/golden/tasks/checkpoint"), folder, { recursive: true });
  writeFileSync(join(folder, "chat_template.jinja"), TEMPLATE);
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  config.max_position_embeddings = CONTEXT;
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  const own = ["--checkpoint", folder, "--port", "0", "--model-name", "small", "--device", "cpu"];
  const { FATHOM_API_KEY, ...env } = process.env;
  const child = spawn(program, [...own, ...options], { env, stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  const lines = createInterface({ input: child.stderr });
  const address = await new Promise((found, failed) => {
    lines.on("line", (line) => {
      log += line + "\n";
      if (line.startsWith("listening on ")) found(line.split(" ").pop());
    });
    child.on("exit", () => failed(new Error("the server ended:\n" + log)));
  });
  const metric = async (name) => {
    const text = await (await fetch(address + "/metrics")).text();
    return Number(text.split("\n").find((line) => line.startsWith(name + " ")).split(" ")[1]);
  };
  return {
    url: address + "/v1",
    async waitFor(name, value) {
      for (const end = Date.now() + 10000; (await metric(name)) !== value; ) {
        assert(Date.now() < end, `${name} is not ${value}`);
        await new Promise((done) => setTimeout(done, 20));
      }
    },
    async stop() {
      const ended = new Promise((done) => child.on("exit", done));
      child.kill("SIGTERM");
      await ended;
      rmSync(folder, { recursive: true });
      assert(!log.includes("panicked"), log);
    },
  };
}

const server = await serve();
const client = new OpenAI({ baseURL: server.url, apiKey: "none", maxRetries: 0 });
const long = { model: "small", prompt: "a", max_tokens: CONTEXT - 100, ignore_eos: true };
const complete = (more) => client.completions.create({ model: "small", prompt: "The king", max_tokens: 12, ...more });
const chat = (more) => client.chat.completions.create({ model: "small", messages, max_tokens: 20, ...more });

async function raised(kind, promise) {
  try {
    await promise;
  } catch (error) {
    assert(error instanceof kind, `${error.constructor.name}: ${error.message}`);
    return error;
  }
  assert.fail(`${kind.name} is not raised`);
}

const checks = {
  async "models: list and retrieve, and another name is not found"() {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model);
    assert.equal(listed.length, 1);
    assert.deepEqual(await client.models.retrieve("small"), listed[0]);
    const error = await raised(OpenAI.NotFoundError, client.models.retrieve("a/b"));
    assert.deepEqual([error.status, error.code, error.param], [404, "model_not_found", "model"]);
  },
  async "completions: usage, n, stop, logprobs, seeds"() {
    const one = await complete({ temperature: 0 });
    assert.equal(one.usage.total_tokens, one.usage.prompt_tokens + one.usage.completion_tokens);
    const text = one.choices[0].text;
    const stop = text.slice(3, 6);
    const cut = await complete({ temperature: 0, stop });
    assert.deepEqual([cut.choices[0].text, cut.choices[0].finish_reason], [text.split(stop)[0], "stop"]);
    const many = await complete({ prompt: ["The king", "My lord"], n: 2, temperature: 0, logprobs: 2 });
    assert.deepEqual(many.choices.map((choice) => choice.index), [0, 1, 2, 3]);
    assert.equal(many.choices[1].text, text);
    // The token that ended the text has a log-probability, too.
    assert(many.choices[1].logprobs.tokens.join("").startsWith(text));
    const drawn = async (seed) => (await complete({ seed })).choices[0].text;
    assert.equal(await drawn(5), await drawn(5));
    assert.notEqual(await drawn(5), await drawn(6));
  },
  async "chats: message, logprobs, the beginning of an answer, reasoning, tools"() {
    const answer = await chat({ temperature: 0, logprobs: true, top_logprobs: 2 });
    const [choice] = answer.choices;
    assert.equal(choice.message.role, "assistant");
    assert.equal(choice.logprobs.content[0].top_logprobs.length, 2);
    const begun = [...messages, { role: "assistant", content: "It is", prefix: true }];
    const continued = await chat({ messages: begun, temperature: 0 });
    const prompt = "[user]Who goes there?[assistant]It is";
    const plain = await complete({ prompt, max_tokens: 20, temperature: 0 });
    assert.equal(continued.choices[0].message.content, plain.choices[0].text);
    const thinking = await chat({ seed: 1, chat_template_kwargs: { thinking: true } });
    assert(thinking.choices[0].message.reasoning_content.length > 5);
    const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } }];
    const withTools = await chat({ tools, seed: 1 });
    assert(withTools.usage.prompt_tokens > answer.usage.prompt_tokens + 20);
    assert.equal(withTools.choices[0].message.tool_calls, undefined);
  },
  async "streams: pieces are the whole, usage comes last, the library's own helper agrees"() {
    const ask = { seed: 3, max_tokens: 40, n: 2 };
    const whole = await complete(ask);
    const texts = ["", ""];
    let usage;
    for await (const piece of await complete({ ...ask, stream: true, stream_options: { include_usage: true } })) {
      assert(!usage);
      for (const choice of piece.choices) texts[choice.index] += choice.text;
      usage = piece.usage;
    }
    assert.deepEqual(texts, whole.choices.map((choice) => choice.text));
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
    const answer = await chat({ seed: 3 });
    const runner = client.chat.completions.stream({ model: "small", messages, max_tokens: 20, seed: 3 });
    const final = await runner.finalChatCompletion();
    assert.equal(final.choices[0].message.content, answer.choices[0].message.content);
    assert.equal(final.choices[0].finish_reason, answer.choices[0].finish_reason);
  },
  async "twelve requests side by side are each what they are alone"() {
    const seeds = [...Array(12).keys()];
    const together = await Promise.all(seeds.map((seed) => complete({ seed })));
    for (const seed of seeds) {
      assert.equal(together[seed].choices[0].text, (await complete({ seed })).choices[0].text);
    }
  },
  async "errors are the library's own classes, with param and code"() {
    let error = await raised(OpenAI.BadRequestError, complete({ n: 100 }));
    assert.deepEqual([error.status, error.param, error.type], [400, "n", "invalid_request_error"]);
    error = await raised(OpenAI.BadRequestError, complete({ prompt: Array(CONTEXT + 1).fill(1) }));
    assert.deepEqual([error.code, error.param], ["context_length_exceeded", "prompt"]);
    error = await raised(OpenAI.NotFoundError, complete({ model: "gpt-4" }));
    assert.equal(error.code, "model_not_found");
    error = await raised(OpenAI.APIError, client.post("/models", { body: {} }));
    assert.equal(error.status, 405);
    const locked = await serve("--api-key", "secret");
    const wrong = new OpenAI({ baseURL: locked.url, apiKey: "none", maxRetries: 0 });
    error = await raised(OpenAI.AuthenticationError, wrong.models.list());
    assert.equal(error.code, "invalid_api_key");
    const right = new OpenAI({ baseURL: locked.url, apiKey: "secret" });
    assert.equal((await right.models.list()).data[0].id, "small");
    await locked.stop();
  },
  async "a full queue is RateLimitError, and the library's own repetition waits as Retry-After says"() {
    const small = await serve("--parallel", "1", "--queue", "0");
    const own = new OpenAI({ baseURL: small.url, apiKey: "none", maxRetries: 0 });
    const running = await own.completions.create({ ...long, stream: true });
    await running[Symbol.asyncIterator]().next();
    const ask = { model: "small", prompt: "b", max_tokens: 2 };
    const error = await raised(OpenAI.RateLimitError, own.completions.create(ask));
    assert.deepEqual([error.code, error.headers.get("retry-after")], ["queue_full", "1"]);
    const began = Date.now();
    setTimeout(() => running.controller.abort(), 300);
    await own.completions.create(ask, { maxRetries: 2 });
    assert(Date.now() - began >= 900 && Date.now() - began < 6000, "the first repetition comes after a second");
    await small.stop();
  },
  async "a stream that is aborted, and a request that times out, give their places back"() {
    const running = await client.completions.create({ ...long, stream: true });
    await running[Symbol.asyncIterator]().next();
    await server.waitFor("fathom_requests_running", 1);
    running.controller.abort();
    await server.waitFor("fathom_requests_running", 0);
    await raised(OpenAI.APIConnectionTimeoutError, client.completions.create(long, { timeout: 500 }));
    await server.waitFor("fathom_requests_running", 0);
  },
  async "withResponse: the raw response beside the parsed one"() {
    const { data, response } = await complete({}).withResponse();
    assert.equal(response.headers.get("content-type"), "application/json");
    assert.equal(data.object, "text_completion");
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  const began = Date.now();
  try {
    await check();
    console.log(`ok    ${name}  (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.error(error);
    console.log(`WRONG ${name}`);
  }
}
await server.stop();
console.log(`${Object.keys(checks).length - failed} of ${Object.keys(checks).length} checks hold`);
process.exit(failed ? 1 : 0);
