// A turn of the conversation on the page: what was said, and the answer as it grows.

const log = find('log');
const turnsPlace = find('turns');

/** Characters of a block of text, about. The browser lays out the last block again whenever text comes, not all of it. */
const BLOCK = 3000;

const flows = new Set();
let frame = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function button(words, act) {
  const made = element('button', '', words);
  made.type = 'button';
  made.addEventListener('click', act);
  return made;
}

/** Text that grows at its end, at most once a frame. It is text and never markup, whatever it says. */
class Flow {
  /** The first block begins with `lead`, if there is one. */
  constructor(place, lead) {
    this.place = place;
    this.clear(lead);
  }

  clear(lead) {
    this.waiting = '';
    this.node = null;
    this.place.replaceChildren();
    if (lead) this.block('').before(lead);
  }

  append(text) {
    this.waiting += text;
    flows.add(this);
    frame ||= requestAnimationFrame(showAll);
  }

  block(text) {
    const block = element('div');
    this.node = document.createTextNode(text);
    block.append(this.node);
    this.place.append(block);
    return this.node;
  }

  show() {
    if (this.waiting === '') return;
    if (this.node) this.node.appendData(this.waiting);
    else this.block(this.waiting);
    this.waiting = '';
    while (this.node.length > BLOCK) {
      // The break between two blocks stands for one line's end. After an empty line it would be lost.
      const { data } = this.node;
      let end = data.indexOf('\n', BLOCK);
      while (end >= 0 && data[end - 1] === '\n') end = data.indexOf('\n', end + 1);
      if (end < 0 || end + 1 === data.length) break;
      this.node.data = data.slice(0, end);
      this.block(data.slice(end + 1));
    }
  }
}

/** Whether the page follows the text: until its reader goes up, and again when he is back at the end. */
let follows = true;
let seenTop = 0;

function scrollToEnd() {
  log.scrollTop = log.scrollHeight;
  seenTop = log.scrollTop;
  follows = true;
  find('down').hidden = true;
}

/** Shows what came. */
function showAll() {
  cancelAnimationFrame(frame);
  frame = 0;
  flows.forEach((flow) => flow.show());
  flows.clear();
  if (follows) scrollToEnd();
  else find('down').hidden = false;
}

log.addEventListener('scroll', () => {
  // The page itself only scrolls down, so any step up is the reader's, however small.
  const { scrollTop } = log;
  const near = log.scrollHeight - scrollTop - log.clientHeight < 48;
  if (scrollTop < seenTop) follows = false;
  else if (scrollTop > seenTop && near) scrollToEnd();
  seenTop = scrollTop;
}, { passive: true });
// A smooth scroll begins with no step at all, and would be undone by the next text before its first one.
function goesUp() {
  if (log.scrollTop > 0) follows = false;
}
log.addEventListener('wheel', (event) => {
  if (event.deltaY < 0) goesUp();
}, { passive: true });
log.addEventListener('keydown', (event) => {
  if (['ArrowUp', 'PageUp', 'Home'].includes(event.key) || (event.key === ' ' && event.shiftKey)) goesUp();
});
find('down').addEventListener('click', () => {
  scrollToEnd();
  find('text').focus();
});

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers give the clipboard to pages from this machine or by TLS only; others have the older way.
    const focused = document.activeElement;
    const place = element('textarea', 'unseen');
    place.value = text;
    document.body.append(place);
    place.select();
    const done = document.execCommand('copy');
    place.remove();
    focused?.focus();
    if (!done) return say('The browser does not let this page copy: select the text.');
  }
  return say('Copied.');
}

/** The view of a turn. */
class View {
  constructor(turn) {
    this.turn = turn;
    this.box = element('article', 'turn');
    this.reasoning = element('details', 'reasoning');
    this.reasoning.append(element('summary', '', 'Reasoning'));
    const thoughts = element('div', 'text');
    const answer = element('div', 'text answer');
    thoughts.dir = answer.dir = 'auto';
    this.reasoning.append(thoughts);
    this.error = element('p', 'error');
    this.numbers = element('p', 'numbers');
    this.below = element('footer');
    if (turn.mode === 'chat') {
      const own = element('div', 'own text', turn.prompt);
      own.dir = 'auto';
      this.box.append(element('h2', 'unseen', 'You'), own, element('h2', 'unseen', 'Answer'));
    } else {
      this.box.append(element('h2', 'unseen', 'Text and its continuation'));
    }
    this.box.append(this.reasoning, answer, this.error, this.below);
    this.thoughts = new Flow(thoughts);
    this.answer = new Flow(answer);
    // Reasoning closes when the answer begins, unless the reader has decided.
    this.decided = false;
    this.reasoning.firstChild.addEventListener('click', () => { this.decided = true; });
    this.fill();
    turnsPlace.append(this.box);
  }

  /** Shows the whole turn. */
  fill() {
    const { turn } = this;
    this.answer.clear(turn.mode === 'text' ? element('span', 'lead', turn.prompt) : null);
    this.thoughts.clear();
    this.answer.waiting = turn.answer;
    this.thoughts.waiting = turn.reasoning;
    this.answer.show();
    this.thoughts.show();
    this.reasoning.hidden = turn.reasoning === '';
    this.refresh();
  }

  addReasoning(text) {
    if (this.reasoning.hidden) {
      this.reasoning.hidden = false;
      this.reasoning.open = true;
    }
    this.thoughts.append(text);
  }

  addAnswer(text) {
    if (this.turn.answer === '' && !this.decided) this.reasoning.open = false;
    this.answer.append(text);
  }

  /** Shows numbers, error and buttons as they are now. */
  refresh() {
    const { turn } = this;
    const writing = running?.turn === turn;
    const last = turns.at(-1) === turn;
    this.box.classList.toggle('running', writing);
    this.error.textContent = turn.error;
    this.error.hidden = turn.error === '';
    this.numbers.textContent = turn.numbers;
    const buttons = element('div', 'buttons');
    if (!writing && turn.answer !== '') {
      buttons.append(button('Copy', () => copy(turn.mode === 'text' ? turn.prompt + turn.answer : turn.answer)));
    }
    if (!writing && last && !running) {
      buttons.append(button(turn.error && !turn.answer ? 'Try again' : 'Regenerate', () => generate(turn, false)));
      const cut = turn.end !== 'stop' || turn.mode === 'text';
      if (cut && turn.answer + turn.reasoning !== '') buttons.append(button('Continue', () => generate(turn, true)));
    }
    this.below.replaceChildren(this.numbers, buttons);
  }
}
