// The page of `serve` in a real browser: node tests/browser/page.mjs SERVE CHECKPOINT [PICTURES]
//
// Needs playwright-core in the current folder's node_modules, and Chromium: $CHROMIUM or /usr/bin/chromium.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';

import { between, clear, copy, serve } from './servers.mjs';

const { chromium } = createRequire(resolve('package.json'))('playwright-core');
const [program, checkpoint, pictures] = process.argv.slice(2);
assert(program && checkpoint && existsSync(join(checkpoint, 'config.json')), 'usage: page.mjs SERVE CHECKPOINT [PICTURES]');

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });

/**
 * A new browser's page at an address. `complaints` are what its console says, and requests to anywhere else. The model
 * writes until it is stopped, however soon it wants to end.
 */
async function open(address, more = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...more });
  const page = await context.newPage();
  page.complaints = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) page.complaints.push(message.text());
  });
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  page.on('request', (request) => {
    const own = request.url().startsWith(`${address}/`) || request.url().startsWith('data:image/svg+xml');
    if (!own) page.complaints.push(`asks ${request.url()}`);
  });
  page.setDefaultTimeout(15_000);
  await page.route('**/completions', (route) => {
    route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), ignore_eos: true }) });
  });
  await page.goto(`${address}/`);
  return page;
}

const answerOf = (page) => page.locator('.turn').last().locator('.answer');
const numbers = (page) => page.locator('.turn').last().locator('.numbers').textContent();
async function status(page, words) {
  const starts = (wanted) => document.getElementById('status').textContent.startsWith(wanted);
  const found = await page.waitForFunction(starts, words).catch(() => null);
  assert(found, `"${words}" is not the status of the page:\n${await page.locator('body').innerText()}`);
}
const idle = (page) => page.locator('#stop').waitFor({ state: 'hidden' });
const named = (page, name) => page.getByRole('button', { name, exact: true });

async function metric(server, name) {
  const text = await (await fetch(`${server.address}/metrics`)).text();
  return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)[1]);
}

async function until(what, holds) {
  const begun = Date.now();
  while (!(await holds())) {
    assert(Date.now() - begun < 10_000, what);
    await new Promise((wake) => { setTimeout(wake, 20); });
  }
}

async function picture(page, name) {
  if (!pictures) return;
  mkdirSync(pictures, { recursive: true });
  for (const scheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.screenshot({ path: join(pictures, `${name}-${scheme}.png`) });
  }
  await page.emulateMedia({ colorScheme: 'light' });
}

/** The page is as wide as the window, and nothing in it must be scrolled sideways. */
async function fits(page) {
  const wide = await page.evaluate(() => {
    const over = [...document.querySelectorAll('body, body *')].filter((e) => e.checkVisibility() && !e.closest('.unseen'))
      .filter((e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 && !['H1', 'P', 'SELECT'].includes(e.tagName));
    return [document.documentElement.scrollWidth - innerWidth, ...over.map((e) => e.outerHTML.slice(0, 80))];
  });
  assert.deepEqual(wide, [0]);
}

/** The lowest contrast of text with what is behind it. */
const contrast = (page) => page.evaluate(() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\d.]+/g).map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    const back = getComputedStyle(e).backgroundColor;
    return back === 'rgba(0, 0, 0, 0)' && e.parentElement ? behind(e.parentElement) : back;
  };
  const texts = [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && !e.closest('noscript'))
    .filter((e) => [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== ''));
  const ratios = texts.map((e) => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 60)];
  });
  return ratios.sort((x, y) => x[0] - y[0])[0];
});

async function readable(page) {
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    const [ratio, where] = await contrast(page);
    assert(ratio >= 4.5, `${colorScheme}: ${ratio} ${where}`);
  }
  await page.emulateMedia({ colorScheme: 'light' });
}

const event = (choice) => `data: ${JSON.stringify({ choices: [{ index: 0, finish_reason: null, ...choice }] })}`;
const said = (content) => event({ delta: { content } });

/** Has the server in between answer chats with these bytes, in pieces of `size` with pauses of milliseconds. */
function canned(proxy, text, { size = 1, pause = 0, after } = {}) {
  proxy.answer = (request, response) => {
    if (request.method !== 'POST') return false;
    request.resume();
    response.socket.setNoDelay(true);
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    const bytes = Buffer.from(text);
    (async () => {
      for (let at = 0; at < bytes.length && !response.destroyed; at += size) {
        response.write(bytes.subarray(at, at + size));
        await new Promise((wake) => { if (pause) setTimeout(wake, pause); else setImmediate(wake); });
      }
      if (after) after(response);
      else response.end();
    })();
    return true;
  };
}

const plain = copy(checkpoint, false);
const chatty = copy(checkpoint, true);

const only = process.env.ONLY;
const steps = {
  async 'a model without a chat template continues texts'() {
    const server = await serve(program, plain);
    const page = await open(server.address);
    await page.locator('#model', { hasText: 'small' }).waitFor();
    assert.match(await page.locator('#context').textContent(), /^context [\d,]+ tokens$/);
    assert.equal(await page.title(), 'small · Fathom');
    await picture(page, 'empty-1280');
    assert.equal(await page.getByLabel('Beginning of a text').getAttribute('placeholder'), 'Beginning of a text');
    await page.keyboard.type('The king');
    await page.keyboard.press('Shift+Enter');
    assert.equal(await page.locator('#text').inputValue(), 'The king\n');
    await page.keyboard.press('Backspace');
    await page.keyboard.press('Enter');
    await status(page, 'Done');
    await page.locator('#cache', { hasText: 'cache 0 % in use' }).waitFor();
    const text = await answerOf(page).innerText();
    assert(text.startsWith('The king') && text.length > 20, text);
    const first = await numbers(page);
    assert.match(first, /^\d+ tokens · [\d,.]+ tokens\/s · first after \d+\.\d\d s · prompt \d+ tokens/);
    await picture(page, 'text-1280');
    await named(page, 'Continue').click();
    await status(page, 'Done');
    assert((await answerOf(page).innerText()).startsWith(text), 'it goes on with what is there');
    assert.deepEqual(page.complaints, []);
    assert(!server.log.some((line) => / [45]\d\d$/.test(line)), server.log.join('\n'));
    await server.stop();
  },

  async 'tokens appear, Escape stops, and the server frees the sequence'() {
    const server = await serve(program, chatty);
    const page = await open(server.address);
    await page.locator('#model', { hasText: 'small' }).waitFor();
    await page.keyboard.type('Speak, my lord');
    await page.keyboard.press('Enter');
    const lengths = new Set();
    await until('tokens appear bit by bit', async () => lengths.add((await answerOf(page).innerText()).length).size > 5);
    assert.equal(await metric(server, 'fathom_requests_running'), 1);
    await page.waitForFunction(() => /^≈ .* tokens\/s/.test(document.querySelector('.numbers').textContent));
    await page.locator('#cache', { hasText: /cache [^0].* % in use|cache 0\.\d % in use/ }).waitFor();
    await picture(page, 'writing-1280');
    await page.keyboard.press('Escape');
    await status(page, 'Stopped');
    await until('the sequence is freed', async () => (await metric(server, 'fathom_requests_running')) === 0);
    assert.equal(await metric(server, 'fathom_cache_pages_used'), 0);
    assert.equal(await metric(server, 'fathom_requests_cancelled_total'), 1);
    const kept = await answerOf(page).innerText();
    assert(kept.length > 20 && (await numbers(page)).endsWith('stopped'));
    // The focus is where the next message is written.
    await page.waitForFunction(() => document.activeElement.id === 'text');
    // Stop by its button, by keyboard: the beginning is kept, the rest comes after it.
    await named(page, 'Continue').press('Enter');
    await page.waitForFunction((n) => document.querySelector('.answer').innerText.length > n + 20, kept.length);
    await named(page, 'Stop').press('Enter');
    await status(page, 'Stopped');
    assert((await answerOf(page).innerText()).startsWith(kept));
    await page.waitForFunction(() => document.activeElement.id === 'text');
    await named(page, 'Regenerate').press('Enter');
    await page.waitForFunction(() => document.activeElement.id === 'stop');
    await status(page, 'Writing');
    await page.keyboard.press('Escape');
    await status(page, 'Stopped');
    assert(!(await answerOf(page).innerText()).startsWith(kept));
    assert.deepEqual(page.complaints, []);
    await server.stop();
  },

  async 'settings and the conversation outlive a reload, by keyboard alone'() {
    const server = await serve(program, chatty);
    const page = await open(server.address);
    await page.locator('#model', { hasText: 'small' }).waitFor();
    const tabTo = async (id) => {
      for (let i = 0; i < 40; i += 1) {
        if (await page.evaluate((wanted) => document.activeElement.id === wanted, id)) return;
        await page.keyboard.press('Shift+Tab');
      }
      assert.fail(`${id} cannot be reached by keyboard`);
    };
    await tabTo('open-settings');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.activeElement.id === 's-mode');
    await tabTo('s-temperature');
    const defaults = await page.evaluate(() => ['temperature', 'top_k'].map((n) => document.getElementById(`s-${n}`).placeholder));
    assert.deepEqual(defaults, ['1', '1000']);
    await page.keyboard.type('-1');
    await page.keyboard.press('Enter');
    await page.locator('#e-temperature', { hasText: 'must be a number, 0 or above' }).waitFor();
    assert.equal(await page.locator('#s-temperature').getAttribute('aria-invalid'), 'true');
    await picture(page, 'settings-1280');
    await readable(page);
    await page.keyboard.press('Control+A');
    await page.keyboard.type('0,5');
    await tabTo('s-max_tokens');
    await page.keyboard.type('12');
    await tabTo('s-seed');
    await page.keyboard.type('7');
    await tabTo('s-stop');
    await page.keyboard.type('\\n\\n\\n');
    await tabTo('s-system');
    await page.keyboard.type('Be brief.');
    await tabTo('s-seed');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.activeElement.id === 'open-settings');
    await status(page, 'Settings saved');
    let sent = null;
    page.on('request', (request) => { sent = request.postDataJSON() ?? sent; });
    await page.locator('#text').focus();
    await page.keyboard.type('Hello');
    await page.keyboard.press('Enter');
    await status(page, 'Done');
    assert.deepEqual(sent, {
      temperature: 0.5, max_tokens: 12, seed: 7, stop: ['\n\n\n'], stream: true, stream_options: { include_usage: true },
      messages: [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Hello' }],
    });
    const answer = await answerOf(page).innerText();
    await page.reload();
    await page.locator('#model', { hasText: 'small' }).waitFor();
    assert.equal(await page.locator('.own').innerText(), 'Hello');
    assert.equal(await answerOf(page).innerText(), answer);
    await named(page, 'Settings').click();
    assert.equal(await page.locator('#s-temperature').inputValue(), '0,5');
    await named(page, 'Reset').click();
    assert.equal(await page.locator('#s-temperature').inputValue(), '');
    // Escape closes without a change.
    await page.keyboard.press('Escape');
    // The second message goes with the first and its answer; the same seed gives the same answer again.
    await page.locator('#text').fill('Again');
    await page.keyboard.press('Enter');
    await status(page, 'Done');
    assert.deepEqual(sent.messages.map((m) => m.content), ['Be brief.', 'Hello', answer, 'Again']);
    const second = await answerOf(page).innerText();
    await named(page, 'Regenerate').click();
    await idle(page);
    assert.equal(await answerOf(page).innerText(), second);
    // A page that is left while it writes keeps what came.
    await page.evaluate(() => localStorage.setItem('fathom.settings', '{"temperature": 3, "mode": "chat"}'));
    await page.reload();
    await page.locator('#model', { hasText: 'small' }).waitFor();
    await page.locator('#text').fill('Long');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.querySelector('.turn:last-child .answer').innerText.length > 50);
    await page.reload();
    assert((await answerOf(page).innerText()).length > 40);
    await named(page, 'New chat').click();
    assert.equal(await page.locator('.turn').count(), 0);
    await named(page, 'Bring it back').click();
    assert.equal(await page.locator('.turn').count(), 3);
    await named(page, 'New chat').click();
    await page.reload();
    assert.equal(await page.locator('.turn').count(), 0);
    // What is no conversation does no harm.
    await page.evaluate(() => localStorage.setItem('fathom.conversation', '[1, {"prompt": 3}, null]'));
    await page.reload();
    await page.locator('#model', { hasText: 'small' }).waitFor();
    assert.equal(await page.locator('.turn').count(), 1);
    assert.deepEqual(page.complaints, []);
    await server.stop();
  },

  async 'a server with a key is asked with it'() {
    const server = await serve(program, chatty, ['--api-key', 'sécret']);
    const page = await open(server.address);
    const reason = page.locator('#settings-reason');
    await reason.filter({ hasText: 'This server asks for a key.' }).waitFor();
    await page.waitForFunction(() => document.activeElement.id === 's-key');
    await picture(page, 'key-1280');
    await page.keyboard.type('wrong');
    await page.keyboard.press('Enter');
    await reason.filter({ hasText: 'The server does not know this key.' }).waitFor();
    await page.keyboard.press('Control+A');
    await page.keyboard.type('sécret');
    await page.keyboard.press('Enter');
    await page.locator('#model', { hasText: 'small' }).waitFor();
    assert.deepEqual(await page.evaluate(() => [sessionStorage['fathom.key'], localStorage['fathom.key']]), ['sécret', undefined]);
    await page.reload();
    await page.locator('#model', { hasText: 'small' }).waitFor();
    await page.locator('#text').fill('Hello');
    await page.keyboard.press('Enter');
    await status(page, 'Writing');
    await page.keyboard.press('Escape');
    await status(page, 'Stopped');
    await named(page, 'Settings').click();
    await page.getByLabel('Keep the key in this browser').check();
    await named(page, 'Save').click();
    assert.equal(await page.evaluate(() => localStorage['fathom.key']), 'sécret');
    // A key that is known no more opens the settings, and leaves the message where it is.
    await page.evaluate(() => { sessionStorage['fathom.key'] = 'old'; });
    await page.reload();
    await reason.filter({ hasText: 'does not know' }).waitFor();
    await page.keyboard.press('Escape');
    await page.locator('#notice', { hasText: 'does not know' }).waitFor();
    assert(await page.locator('#send').isDisabled());
    const others = page.complaints.filter((words) => !words.includes('401'));
    assert.deepEqual(others, []);
    await server.stop();
  },

  async 'pieces of any size are put together, and are text whatever they say'() {
    const server = await serve(program, chatty);
    const proxy = await between(server.address);
    const page = await open(proxy.address);
    await page.locator('#model', { hasText: 'small' }).waitFor();
    const usage = 'data: {"choices": [], "usage": {"prompt_tokens": 1234, "completion_tokens": 5,\r\ndata: ' +
      '"prompt_tokens_details": {"cached_tokens": 1000}}}';
    const lines = [
      ': a comment', event({ delta: { role: 'assistant', content: '' } }), event({ delta: { reasoning_content: 'Hm, 思考' } }),
      'event: x', said('<img src=x onerror="alert(1)"><b>  Grüße 👩‍👩‍👧\n\n\tund</b>'), said(' mehr &amp; Meer'),
      event({ delta: {}, finish_reason: 'stop' }), usage, 'data:[DONE]',
    ];
    const want = '<img src=x onerror="alert(1)"><b>  Grüße 👩‍👩‍👧\n\n\tund</b> mehr &amp; Meer';
    for (const [end, size] of [['\r\n\r\n', 1], ['\n\n', 3], ['\r\r', 1], ['\r\n\r\n', 1 << 20]]) {
      canned(proxy, lines.join(end) + end, { size });
      await page.locator('#text').fill('Hello');
      await page.keyboard.press('Enter');
      await status(page, 'Done: 5 tokens');
      assert.equal(await answerOf(page).textContent(), want, JSON.stringify([end, size]));
      const thoughts = page.locator('.turn').last().locator('.reasoning');
      assert.equal(await thoughts.locator('.text').textContent(), 'Hm, 思考');
      assert.equal(await thoughts.getAttribute('open'), null, 'reasoning closes when the answer begins');
      assert.match(await numbers(page), /^5 tokens · .*prompt 1,234 tokens, 1,000 cached$/);
      await page.evaluate(() => document.getElementById('status').replaceChildren());
    }
    await page.locator('.turn').last().locator('summary').click();
    await picture(page, 'reasoning-1280');
    await readable(page);
    assert.deepEqual(page.complaints, []);
    proxy.close();
    await server.stop();
  },

  async 'failures say what to do'() {
    const server = await serve(program, chatty);
    const proxy = await between(server.address);
    const page = await open(proxy.address);
    await page.locator('#model', { hasText: 'small' }).waitFor();
    const refuse = (code, headers, error) => {
      proxy.answer = (request, response) => {
        if (request.method !== 'POST') return false;
        request.resume();
        response.writeHead(code, headers);
        response.end(typeof error === 'string' ? error : JSON.stringify({ error }));
        return true;
      };
    };
    const shown = async (...all) => {
      await page.locator('#text').fill('Hello');
      await page.keyboard.press('Enter');
      await status(page, 'No answer');
      const words = await page.locator('.turn').last().locator('.error').innerText();
      all.forEach((part) => assert(words.includes(part), `${part} in ${words}`));
      assert(await page.evaluate(() => document.querySelector('#stop').hidden));
      await page.evaluate(() => document.getElementById('status').replaceChildren());
    };
    refuse(429, { 'retry-after': '7' }, { message: 'the queue is full', code: 'queue_full' });
    await shown('the queue is full', 'Try again in 7 s.');
    await picture(page, 'busy-1280');
    await readable(page);
    refuse(503, {}, { message: 'the request took too long', code: 'timeout' });
    await shown('took too long', 'in a moment');
    refuse(502, { 'content-type': 'text/html' }, '<h1>Bad Gateway</h1>');
    await shown('status 502');
    refuse(400, {}, { message: 'messages: has 9 tokens', code: 'context_length_exceeded' });
    await shown('has 9 tokens', 'new chat');
    canned(proxy, `${said('So far')}\n\n${'data: {"error": {"message": "the server stops", "code": "stopping"}}'}\n\n`);
    await shown('the server stops');
    assert.equal(await answerOf(page).innerText(), 'So far');
    canned(proxy, `${said('So far')}\n\n`);
    await shown('ended before the answer did');
    canned(proxy, `${said('So far')}\n\ndata: {"cho`, { after: (response) => setTimeout(() => response.destroy(), 300) });
    await shown('ended before the answer did');
    canned(proxy, 'data: {broken}\n\n');
    await shown('cannot be read');
    // A message that got no answer is tried again, and is left out of later requests.
    proxy.answer = () => false;
    let sent = null;
    page.on('request', (request) => { sent = request.postDataJSON() ?? sent; });
    await page.locator('#text').fill('Now');
    await page.keyboard.press('Enter');
    await status(page, 'Writing');
    await page.keyboard.press('Escape');
    assert.equal(sent.messages.map((m) => m.role).join(' '), 'user assistant user assistant user assistant user');
    // The server's own refusal.
    await page.evaluate(() => localStorage.setItem('fathom.settings', '{"temperature": "0.5", "stop": "\\n'.padEnd(80_000, 'x') + '"}'));
    await page.reload();
    await page.locator('#model', { hasText: 'small' }).waitFor();
    await shown('stop', 'See the settings.');
    // A server that goes away, and comes back.
    await page.evaluate(() => localStorage.removeItem('fathom.settings'));
    const direct = await open(server.address);
    await direct.locator('#model', { hasText: 'small' }).waitFor();
    await server.stop();
    await direct.locator('#text').fill('Anybody?');
    await direct.keyboard.press('Enter');
    await direct.locator('.turn .error', { hasText: 'The server does not answer.' }).waitFor();
    await direct.locator('#notice', { hasText: 'goes on asking' }).waitFor();
    const again = await serve(program, chatty, [], new URL(server.address).port);
    await direct.locator('#notice').waitFor({ state: 'hidden' });
    await named(direct, 'Try again').click();
    await status(direct, 'Writing');
    await direct.keyboard.press('Escape');
    proxy.close();
    await again.stop();
  },

  async 'ten thousand tokens keep the page quick, and a reader where he is'() {
    const server = await serve(program, chatty);
    const proxy = await between(server.address);
    const page = await open(proxy.address);
    await page.locator('#model', { hasText: 'small' }).waitFor();
    const words = Array.from({ length: 10_000 }, (_, i) => (i % 97 === 96 ? '\n\n' : i % 13 === 12 ? '\n' : ` token${i}`));
    canned(proxy, `${words.map(said).join('\n\n')}\n\n${event({ delta: {}, finish_reason: 'stop' })}\n\ndata: [DONE]\n\n`, { size: 1500, pause: 4 });
    await page.evaluate(() => {
      window.slow = [];
      new PerformanceObserver((list) => window.slow.push(...list.getEntries().map((e) => e.duration))).observe({ type: 'longtask' });
    });
    await page.locator('#text').fill('Tell');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.getElementById('log').scrollTop > 500);
    // The page follows the end, until the reader goes up.
    await page.locator('#log').focus();
    await page.keyboard.press('Home');
    await page.waitForFunction(() => document.getElementById('log').scrollTop === 0);
    const before = (await answerOf(page).textContent()).length;
    await page.waitForFunction((n) => document.querySelector('.answer').textContent.length > n + 500, before);
    assert.equal(await page.evaluate(() => document.getElementById('log').scrollTop), 0);
    await named(page, 'Go to the end').click();
    await status(page, 'Done');
    await page.waitForFunction(() => {
      const log = document.getElementById('log');
      return log.scrollHeight - log.scrollTop - log.clientHeight < 48 && document.getElementById('down').hidden;
    });
    const slow = await page.evaluate(() => window.slow);
    console.log(`   tasks above 50 ms while 10,000 tokens came: ${slow.length}, the longest ${Math.max(0, ...slow)} ms`);
    assert(Math.max(0, ...slow) < 400, slow.join(' '));
    // Breaks between blocks are breaks between lines: what is seen is the text.
    assert.equal(await answerOf(page).innerText(), words.join(''));
    assert((await answerOf(page).locator(':scope > div').count()) > 10);
    await page.reload();
    await page.locator('#model', { hasText: 'small' }).waitFor();
    assert.equal(await answerOf(page).innerText(), words.join(''));
    assert.deepEqual(page.complaints, []);
    proxy.close();
    await server.stop();
  },

  async 'it fits a phone'() {
    const server = await serve(program, chatty, ['--api-key', 'secret']);
    const proxy = await between(server.address);
    for (const width of [320, 360, 400]) {
      const page = await open(proxy.address, { viewport: { width, height: 640 } });
      await page.locator('#settings-reason', { hasText: 'asks for a key' }).waitFor();
      await fits(page);
      const sizes = await page.evaluate(() => [...document.querySelectorAll('input, select, textarea')].map((e) => parseFloat(getComputedStyle(e).fontSize)));
      assert(sizes.length > 8 && Math.min(...sizes) >= 16, 'smaller letters make a phone zoom in');
      if (width === 360) await picture(page, 'settings-360');
      await page.keyboard.type('secret');
      await page.keyboard.press('Enter');
      await page.locator('#model', { hasText: 'small' }).waitFor();
      await fits(page);
      if (width === 360) await picture(page, 'empty-360');
      const answer = `${'incomprehensibilities'.repeat(20)}\n  ${'Long, and longer still, goes a line of verse; '.repeat(4)}`;
      canned(proxy, [event({ delta: { reasoning_content: 'thought '.repeat(60) } }), said(answer), event({ delta: {}, finish_reason: 'length' }), 'data: [DONE]', ''].join('\n\n'), { size: 50 });
      await page.locator('#text').fill(`Say ${'w'.repeat(300)}`);
      await page.keyboard.press('Enter');
      await status(page, 'Done');
      await page.locator('summary').click();
      await fits(page);
      await readable(page);
      if (width === 360) await picture(page, 'chat-360');
      proxy.answer = () => false;
      assert.deepEqual(page.complaints.filter((words) => !words.includes('401')), []);
    }
    proxy.close();
    await server.stop();
  },
};

try {
  for (const [name, step] of Object.entries(steps)) {
    if (only && !name.includes(only)) continue;
    const begun = Date.now();
    await step();
    console.log(`ok ${name} (${((Date.now() - begun) / 1000).toFixed(1)} s)`);
  }
} finally {
  await browser.close();
  clear();
}
