// Sending, stopping, and what an answer's numbers are.

const text = find('text');
const sendButton = find('send');
const stopButton = find('stop');
/** Whether the keyboard is one on the screen: it has no Shift+Enter, so there Enter begins a line. */
const touches = matchMedia('(pointer: coarse)').matches;
/** The answer that is being written, if one is. */
let running = null;
let views = [];

const number = (value, digits = 0) =>
  value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });
const plural = (count, word) => `${number(count)} ${word}${count === 1 ? '' : 's'}`;

/** Tells readers and screen readers what happens. */
function say(words) {
  find('status').textContent = words;
}

/** Whether the next text is a chat's message or the beginning of a text. */
function modeNow() {
  if (settings.mode !== 'auto') return settings.mode;
  return model && !model.chat ? 'text' : 'chat';
}

/** Shows what depends on the mode, on the conversation and on whether an answer is being written. */
function settled() {
  const writes = modeNow() === 'text';
  find('text-label').textContent = writes ? 'Beginning of a text' : 'Message';
  text.placeholder = writes ? 'Beginning of a text' : 'Message';
  sendButton.textContent = writes ? 'Write' : 'Send';
  sendButton.disabled = text.value === '' || !model;
  find('intro').hidden = turns.length > 0;
  find('intro-title').textContent = writes ? 'Begin a text' : 'Ask something';
  find('intro-words').textContent = writes
    ? `${model && !model.chat ? 'This model has no chat template, so it' : 'The model'} goes on where your text ends.`
    : 'The conversation is kept in this browser.';
  for (const [one, shown] of [[sendButton, !running], [stopButton, running]]) {
    const focused = document.activeElement === one;
    one.hidden = !shown;
    // On a touch screen the text's place would bring the keyboard up.
    if (focused && !shown) (touches ? log : text).focus();
  }
}

/** What the model is asked for a turn; with `more` it goes on with the answer that there is. */
function request(turn, more) {
  if (turn.mode === 'text') {
    return ['v1/completions', { ...parameters('text'), prompt: turn.prompt + (more ? turn.answer : '') }];
  }
  const messages = settings.system === '' ? [] : [{ role: 'system', content: settings.system }];
  const said = (one) => messages.push({ role: 'user', content: one.prompt });
  // A turn without an answer is left out: templates want the two sides to alternate.
  for (const one of turns.slice(0, turns.indexOf(turn)).filter((one) => one.mode === 'chat' && one.answer !== '')) {
    said(one);
    messages.push({ role: 'assistant', content: one.answer });
  }
  said(turn);
  if (more) {
    const reasoning = turn.reasoning === '' ? {} : { reasoning_content: turn.reasoning };
    messages.push({ role: 'assistant', content: turn.answer, ...reasoning, prefix: true });
  }
  return ['v1/chat/completions', { ...parameters('chat'), messages }];
}

/** Characters of a token, as the last answer had them. */
let density = Infinity;

/** The numbers of an answer: those of the server when it tells them, before that an estimate by what came. */
function numbersOf({ begun, first, last, pieces, characters }, usage, end) {
  // A piece has at least one token, and more where tokens come fast.
  const count = usage?.completion_tokens ?? Math.max(pieces, Math.round(characters / density));
  const about = usage ? '' : '≈ ';
  const words = [`${about}${plural(count, 'token')}`];
  const rate = (count - 1) / ((last - first) / 1000);
  if (count > 1 && last > first) words.push(`${about}${number(rate, rate < 100 ? 1 : 0)} tokens/s`);
  if (first) words.push(`first after ${number((first - begun) / 1000, 2)} s`);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    words.push(`prompt ${plural(usage.prompt_tokens, 'token')}${cached > 0 ? `, ${number(cached)} cached` : ''}`);
  }
  const ends = { length: 'cut off by the limit of tokens', stopped: 'stopped' };
  return [...words, ...(ends[end] ? [ends[end]] : [])].join(' · ');
}

/** What to do about a failure, where the server's message does not say it. */
function remedy(failure) {
  if (failure.status === 401) return 'Give the key in the settings, then try again.';
  if (failure.wait > 0) return `Try again in ${failure.wait} s.`;
  if (failure.status === 429 || failure.status === 503) return 'Try again in a moment.';
  if (failure.code === 'context_length_exceeded') return 'Begin a new chat, or ask with less text.';
  if (failure.message.includes('no chat template')) return 'Choose text completion in the settings.';
  if (failure.status === 400) return 'See the settings.';
  return '';
}

/** Has the model write the answer of the last turn: all of it, or with `more` what comes after the part that is there. */
async function generate(turn, more) {
  if (running) return;
  const view = views[turns.indexOf(turn)];
  const held = view.box.contains(document.activeElement);
  const now = { turn, controller: new AbortController(), begun: performance.now(), first: 0, last: 0, pieces: 0, characters: 0 };
  running = now;
  const [path, body] = request(turn, more);
  Object.assign(turn, { end: '', error: '', numbers: '' }, more ? {} : { answer: '', reasoning: '' });
  view.decided = false;
  view.fill();
  settled();
  // The button that was pressed is gone.
  if (held) stopButton.focus();
  scrollToEnd();
  say('Waiting for the first token. Escape stops.');
  const live = setInterval(() => {
    turn.numbers = now.first ? numbersOf(now, null, '') : '';
    view.numbers.textContent = turn.numbers;
    if (now.last - (now.kept ?? now.begun) > 2000) {
      now.kept = now.last;
      keepTurns();
    }
  }, 300);
  pollSoon();
  let usage = null;
  try {
    usage = await stream(path, body, now.controller.signal, (choice) => {
      const reasoning = choice.delta?.reasoning_content ?? '';
      const answer = choice.delta?.content ?? choice.text ?? '';
      now.last = performance.now();
      if (reasoning + answer !== '') {
        now.pieces += 1;
        now.characters += reasoning.length + answer.length;
        if (!now.first) {
          now.first = now.last;
          say('Writing. Escape stops.');
        }
        if (reasoning) view.addReasoning(reasoning);
        if (answer) view.addAnswer(answer);
        turn.reasoning += reasoning;
        turn.answer += answer;
      }
      turn.end = choice.finish_reason ?? turn.end;
    });
    if (usage?.completion_tokens > 0) density = now.characters / usage.completion_tokens || Infinity;
    say(`Done: ${plural(usage?.completion_tokens ?? now.pieces, 'token')}.`);
  } catch (failure) {
    if (now.controller.signal.aborted) {
      turn.end = 'stopped';
      say('Stopped.');
    } else {
      turn.end = 'error';
      turn.error = [failure.message, remedy(failure)].filter((words) => words !== '').join('\n');
      say('No answer: see the message.');
      // Who does not see it hears it.
      find('status').append(element('span', 'unseen', turn.error));
      if (failure.status === 401) refused();
      else if (failure.message === SILENT || failure.message === BROKEN) connect();
    }
  } finally {
    clearInterval(live);
    running = null;
    turn.numbers = usage || now.first ? numbersOf(now, usage, turn.end) : '';
    // A new chat may have begun meanwhile.
    if (turns.includes(turn)) {
      showAll();
      view.refresh();
      if (follows) scrollToEnd();
      keepTurns();
    }
    settled();
    pollSoon();
  }
}

function send() {
  if (running || text.value === '' || !model) return;
  const turn = { mode: modeNow(), prompt: text.value, answer: '', reasoning: '', end: '', error: '', numbers: '' };
  text.value = '';
  grow();
  hideNotice();
  turns.push(turn);
  views.push(new View(turn));
  views.at(-2)?.refresh();
  generate(turn, false);
}

const halt = () => running?.controller.abort();

/** The text's place is as high as the text. */
function grow() {
  text.style.height = 'auto';
  text.style.height = `${text.scrollHeight}px`;
}

function showTurns() {
  turnsPlace.replaceChildren();
  views = turns.map((turn) => new View(turn));
  scrollToEnd();
  settled();
}

find('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  send();
});
text.addEventListener('input', () => {
  grow();
  sendButton.disabled = text.value === '' || !model;
});
text.enterKeyHint = touches ? 'enter' : 'send';
text.addEventListener('keydown', (event) => {
  // While a method of input composes a character, Enter is the method's.
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing || touches) return;
  event.preventDefault();
  send();
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !dialog.open && !event.isComposing) halt();
});
stopButton.addEventListener('click', halt);
find('new').addEventListener('click', () => {
  halt();
  const before = turns;
  if (before.length > 0) {
    notice('The conversation is gone.', 'Bring it back', () => {
      halt();
      turns = before;
      keepTurns();
      hideNotice();
      showTurns();
      text.focus();
    });
  }
  turns = [];
  keepTurns();
  showTurns();
  say('');
  text.focus();
});
addEventListener('pagehide', () => {
  if (running) keepTurns();
});
