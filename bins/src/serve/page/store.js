// What the browser keeps: settings, the conversation, and the key.

const SETTINGS = 'fathom.settings';
const TURNS = 'fathom.conversation';
const KEY = 'fathom.key';
/** Characters of a conversation that are kept, at most; its oldest turns go first. Browsers keep about 5 million. */
const MOST = 1_000_000;
/** New tokens of a completion where the settings do not say, at most; the server's default is too short to read. */
const TEXT_TOKENS = 256;

/** A browser may forbid a page to keep anything; then it forgets. */
function read(storage, name) {
  try {
    return storage()?.getItem(name) ?? null;
  } catch {
    return null;
  }
}

function write(storage, name, text) {
  try {
    if (text === null) storage().removeItem(name);
    else storage().setItem(name, text);
    return true;
  } catch {
    return false;
  }
}

const lasting = () => localStorage;
const passing = () => sessionStorage;

function readJson(name) {
  try {
    return JSON.parse(read(lasting, name));
  } catch {
    return null;
  }
}

/** The numbers of the settings, and what the server takes for them. */
const NUMBERS = {
  temperature: { fits: (x) => x >= 0, must: 'must be a number, 0 or above' },
  top_p: { fits: (x) => x > 0 && x <= 1, must: 'must be above 0 and at most 1' },
  top_k: { fits: (x) => x >= 0, whole: true, must: 'must be a whole number, 0 (all) or above' },
  min_p: { fits: (x) => x >= 0 && x <= 1, must: 'must be from 0 to 1' },
  max_tokens: { fits: (x) => x >= 1, whole: true, must: 'must be a whole number, 1 or above' },
  seed: { fits: () => true, whole: true, must: 'must be a whole number' },
};

/** The number that a field holds: `null` if it is empty, `undefined` if it does not fit. */
function numberOf(name, text) {
  // Some keyboards have a comma only.
  const typed = text.trim().replace(',', '.');
  if (typed === '') return null;
  const value = Number(typed);
  const { fits, whole } = NUMBERS[name];
  return Number.isFinite(value) && fits(value) && (!whole || Number.isSafeInteger(value)) ? value : undefined;
}

/** Settings as they were typed. */
const EMPTY = { mode: 'auto', system: '', stop: '', ...Object.fromEntries(Object.keys(NUMBERS).map((name) => [name, ''])) };

function loadSettings() {
  const kept = readJson(SETTINGS) ?? {};
  const text = (name) => (typeof kept[name] === 'string' ? kept[name] : EMPTY[name]);
  return Object.fromEntries(Object.keys(EMPTY).map((name) => [name, text(name)]));
}

let settings = loadSettings();
let key = read(passing, KEY) ?? read(lasting, KEY) ?? '';

function keepSettings(changed) {
  settings = changed;
  return write(lasting, SETTINGS, JSON.stringify(settings));
}

const keyIsKept = () => read(lasting, KEY) !== null;

function keepKey(changed, remember) {
  key = changed;
  write(passing, KEY, key || null);
  write(lasting, KEY, remember && key ? key : null);
}

/** The fields of a request that the settings fill. */
function parameters(mode) {
  const fields = mode === 'text' ? { max_tokens: Math.min(TEXT_TOKENS, model?.defaults.max_tokens ?? TEXT_TOKENS) } : {};
  for (const name of Object.keys(NUMBERS)) {
    const value = numberOf(name, settings[name]);
    if (value !== null && value !== undefined) fields[name] = value;
  }
  const meant = (line) => line.replace(/\\([nrt\\])/g, (_, c) => ({ n: '\n', r: '\r', t: '\t' })[c] ?? c);
  const stop = settings.stop.split('\n').filter((line) => line !== '').map(meant);
  return stop.length > 0 ? { ...fields, stop } : fields;
}

/** The conversation: turns of `{mode, prompt, answer, reasoning, end, error, numbers}`. */
let turns = loadTurns();

function loadTurns() {
  const kept = readJson(TURNS);
  const text = (value) => (typeof value === 'string' ? value : '');
  const turn = (one) => ({
    mode: one.mode === 'text' ? 'text' : 'chat',
    prompt: text(one.prompt),
    answer: text(one.answer),
    reasoning: text(one.reasoning),
    // A turn without an end was being written when the page was left.
    end: text(one.end) || 'stopped',
    error: text(one.error),
    numbers: text(one.numbers),
  });
  return Array.isArray(kept) ? kept.filter((one) => one !== null && typeof one === 'object').map(turn) : [];
}

function keepTurns() {
  const texts = turns.map((turn) => JSON.stringify(turn));
  let size = texts.reduce((sum, text) => sum + text.length + 1, 0);
  while (size > MOST && texts.length > 1) size -= texts.shift().length + 1;
  while (!write(lasting, TURNS, texts.length > 0 ? `[${texts.join(',')}]` : null) && texts.length > 1) texts.shift();
}
