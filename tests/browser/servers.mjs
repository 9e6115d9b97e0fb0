// What the test of the page talks to: `serve` as a child process, copies of a checkpoint for it, and a server in between
// that passes requests on until it is told to answer itself, badly or in odd pieces.

import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';

const TEMPLATE =
  "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";

const folders = [];
const children = [];

/** A copy of a model folder whose context has 60,000 tokens, with a chat template or without one. */
export function copy(checkpoint, chats) {
  const folder = mkdtempSync(join(tmpdir(), 'fathom-page-'));
  folders.push(folder);
  for (const name of readdirSync(checkpoint)) {
    const from = resolve(checkpoint, name);
    if (name.endsWith('.safetensors')) symlinkSync(from, join(folder, name));
    else if (name !== 'chat_template.jinja') cpSync(from, join(folder, name), { recursive: true });
  }
  const config = JSON.parse(readFileSync(join(folder, 'config.json')));
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, max_position_embeddings: 60_000 }));
  writeFileSync(join(folder, 'generation_config.json'), '{"top_k": 1000}');
  if (chats) writeFileSync(join(folder, 'chat_template.jinja'), TEMPLATE);
  return folder;
}

/** Starts `serve`; gives its address, its log and the process when it answers. */
export async function serve(program, folder, more = [], port = 0) {
  const options = ['--checkpoint', folder, '--port', port, '--model-name', 'small', '--device', 'cpu', ...more];
  const child = spawn(program, options, { stdio: ['ignore', 'ignore', 'pipe'] });
  children.push(child);
  const log = [];
  const address = await new Promise((found, failed) => {
    createInterface(child.stderr).on('line', (line) => {
      log.push(line);
      if (line.startsWith('listening on ')) found(line.slice('listening on '.length));
    });
    child.on('exit', () => failed(new Error(`serve ended:\n${log.join('\n')}`)));
  });
  const stop = () => new Promise((over) => {
    child.on('exit', over);
    child.kill('SIGKILL');
  });
  return { address, log, stop };
}

/** A server that passes everything on to `target`, but for `answer(request, response)` where that gives true. */
export async function between(target) {
  const self = { answer: () => false };
  const server = http.createServer((request, response) => {
    if (self.answer(request, response)) return;
    const { host } = new URL(target);
    const { method, headers } = request;
    const onward = http.request(target + request.url, { method, headers: { ...headers, host } }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    request.pipe(onward);
  });
  await new Promise((ready) => { server.listen(0, '127.0.0.1', ready); });
  self.address = `http://127.0.0.1:${server.address().port}`;
  self.close = () => {
    server.close();
    server.closeAllConnections();
  };
  return self;
}

/** Ends every process, and removes every folder. */
export function clear() {
  children.forEach((child) => child.kill('SIGKILL'));
  folders.forEach((folder) => rmSync(folder, { recursive: true, force: true }));
}
