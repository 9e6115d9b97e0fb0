// Requests to the server, and its answers in pieces.

/** A request that failed: the sentence to show, the status and code of the server, and seconds to wait. */
class Failure extends Error {
  constructor(message, { status = 0, code = null, wait = 0 } = {}) {
    super(message);
    Object.assign(this, { status, code, wait });
  }
}

const SILENT = 'The server does not answer. See whether it still runs.';
const BROKEN = 'The connection ended before the answer did. See whether the server still runs; what came is kept.';

/** The failure that a response with an error's status tells of. */
async function failureOf(response) {
  let body = null;
  try {
    body = await response.json();
  } catch {
    // A proxy's page, or a body that is cut off: the status has to do.
  }
  const error = body?.error ?? { code: body?.status };
  const message = error.message ?? `The server answered with status ${response.status} ${response.statusText}`;
  const wait = Number(response.headers.get('retry-after')) || 0;
  return new Failure(message, { status: response.status, code: error.code ?? null, wait });
}

/** Asks the server, with the key if there is one. Addresses are relative, so that a proxy may put the page anywhere. */
async function ask(path, { body, signal } = {}) {
  const headers = {};
  // Headers are bytes: the key goes as UTF-8.
  if (key) headers.Authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`;
  if (body) headers['Content-Type'] = 'application/json';
  const options = { method: body ? 'POST' : 'GET', headers, signal, cache: 'no-store' };
  let response;
  try {
    response = await fetch(path, body ? { ...options, body: JSON.stringify(body) } : options);
  } catch (error) {
    throw signal?.aborted ? error : new Failure(SILENT);
  }
  if (!response.ok) throw await failureOf(response);
  return response;
}

/** The data of server-sent events, wherever the chunks that bring them begin and end. */
async function* eventsOf(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      // A carriage return at the end of a chunk may be the first half of a line's end.
      const lines = rest.split(done ? /\r\n|\n|\r/ : /\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith('data:')) {
          data.push(line.slice(line[5] === ' ' ? 6 : 5));
        } else if (line === '' && data.length > 0) {
          yield data.join('\n');
          data = [];
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Posts a request for an answer in pieces, and hands on each piece that has a choice.
 * Gives the usage, if the server told it. Throws a Failure, or what an abort throws.
 */
async function stream(path, body, signal, piece) {
  const response = await ask(path, { body: { ...body, stream: true, stream_options: { include_usage: true } }, signal });
  let usage = null;
  try {
    for await (const data of eventsOf(response.body)) {
      if (data === '[DONE]') return usage;
      const event = JSON.parse(data);
      if (event.error) throw new Failure(event.error.message ?? 'The server failed.', { code: event.error.code });
      usage = event.usage ?? usage;
      const choice = event.choices?.[0];
      if (choice) piece(choice);
    }
  } catch (error) {
    if (signal.aborted || error instanceof Failure) throw error;
    if (error instanceof SyntaxError) throw new Failure('The answer cannot be read: a piece of it is not JSON.');
    throw new Failure(BROKEN);
  }
  throw new Failure(BROKEN);
}
