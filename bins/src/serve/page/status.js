// What is known of the server: its model, its cache, and whether it answers.

/** The model: `{id, context, chat, defaults}`. */
let model = null;
/** Milliseconds between two looks at the cache: while an answer is written, and otherwise. */
const OFTEN = 2000;
const SELDOM = 20_000;
/** Milliseconds after which a server that loads or is silent is asked again. */
const AGAIN = 2000;

let poller = 0;
let connecting = false;

/** Whether the notice on top is about the server, so that an answer of it settles the matter. */
let troubled = false;

/** Shows a sentence on top of the page, with a button if `act` is given. */
function notice(words, label, act) {
  troubled = false;
  find('notice-words').textContent = words;
  find('notice').hidden = false;
  const place = find('notice-button');
  place.hidden = !act;
  place.textContent = label ?? '';
  place.onclick = act ?? null;
}

function hideNotice() {
  find('notice').hidden = true;
}

function trouble(...words) {
  notice(...words);
  troubled = true;
}

/** Asks for the key. Until it is given, the server is left alone. */
function refused() {
  const words = key === '' ? 'This server asks for a key.' : 'The server does not know this key.';
  model = null;
  settled();
  trouble(words, 'Settings', () => openSettings(words));
  openSettings(words);
}

/** What a server that gives no model is waiting for. */
function reason(failure) {
  if (failure.message === SILENT) return `${SILENT} This page goes on asking.`;
  if (failure.code === 'loading') return 'The model is being loaded.';
  if (failure.code === 'stopping') return 'The server stops.';
  return failure.message;
}

const sleep = (milliseconds) => new Promise((wake) => setTimeout(wake, milliseconds));

/** Waits until the server has its model, and learns its name and size. */
async function connect() {
  if (connecting) return;
  connecting = true;
  try {
    for (;;) {
      try {
        // The one route that the server does not log, and that needs no key.
        await ask('health');
        const [found] = (await (await ask('v1/models')).json()).data;
        model = { id: found.id, context: found.max_model_len, chat: found.chat_template !== false, defaults: found.defaults ?? {} };
        document.title = `${model.id} · Fathom`;
        find('model').textContent = model.id;
        find('model').title = model.id;
        find('context').textContent = `context ${plural(model.context, 'token')}`;
        if (troubled) hideNotice();
        if (found.tokenizer === false) trouble('This model has no tokenizer, so it reads and writes no text.');
        return;
      } catch (failure) {
        if (failure.status === 401) return refused();
        trouble(reason(failure));
        await sleep(failure.wait * 1000 || AGAIN);
      }
    }
  } finally {
    connecting = false;
    settled();
    pollSoon();
  }
}

/** Shows how full the cache is. */
async function poll() {
  try {
    const metrics = await (await ask('metrics')).text();
    const value = (name) => Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'm').exec(metrics)?.[1]);
    const share = value('fathom_cache_pages_used') / value('fathom_cache_pages');
    // The server counts pages from its first request on.
    find('cache').hidden = !Number.isFinite(share);
    if (!Number.isFinite(share)) return;
    find('cache-words').textContent = `cache ${number(100 * share, share < 0.0995 && share > 0 ? 1 : 0)} % in use`;
    find('cache-bar').style.width = `${100 * share}%`;
  } catch (failure) {
    if (failure.status === 401) refused();
    else if (failure.message === SILENT && !running) connect();
  }
}

/** Looks at the cache now and then, while the page is seen. */
function pollSoon() {
  clearTimeout(poller);
  if (document.hidden || !model || connecting) return;
  const when = running ? OFTEN : SELDOM;
  poll().finally(() => {
    clearTimeout(poller);
    poller = setTimeout(pollSoon, when);
  });
}

document.addEventListener('visibilitychange', pollSoon);
showTurns();
say(touches ? '' : 'Enter sends, Shift+Enter begins a line, Escape stops.');
connect();
