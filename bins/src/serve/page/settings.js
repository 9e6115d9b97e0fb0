// The dialog of settings.

const find = (id) => document.getElementById(id);
const dialog = find('settings');
const form = find('settings-form');
const field = (name) => form.elements.namedItem(name);

/** Says what is wrong with a field, or that nothing is. */
function mark(name, problem) {
  const place = find(`e-${name}`);
  place.textContent = problem;
  place.hidden = problem === '';
  if (problem === '') field(name).removeAttribute('aria-invalid');
  else field(name).setAttribute('aria-invalid', 'true');
  return problem === '';
}

function fill(values) {
  for (const name of Object.keys(EMPTY)) field(name).value = values[name];
  for (const name of Object.keys(NUMBERS)) {
    mark(name, '');
    field(name).placeholder = model?.defaults[name] ?? '';
  }
}

const checkNumber = (name) => mark(name, numberOf(name, field(name).value) === undefined ? NUMBERS[name].must : '');

function checkKey() {
  const control = [...field('key').value.trim()].some((c) => c < ' ' || c === '\x7f');
  return mark('key', control ? 'has a control character: paste it again' : '');
}

/** Opens the settings; a reason says why, and asks for the key. The browser gives the focus back when they close. */
function openSettings(reason = '') {
  find('settings-reason').textContent = reason;
  find('settings-reason').hidden = reason === '';
  if (!dialog.open) {
    fill(settings);
    field('key').value = key;
    field('remember').checked = keyIsKept();
    mark('key', '');
    dialog.showModal();
  }
  field(reason ? 'key' : 'mode').focus();
}

find('open-settings').addEventListener('click', () => openSettings());
find('cancel').addEventListener('click', () => dialog.close());
find('reset').addEventListener('click', () => {
  fill(EMPTY);
  field('mode').focus();
});
for (const name of Object.keys(NUMBERS)) field(name).addEventListener('change', () => checkNumber(name));

form.addEventListener('submit', (event) => {
  event.preventDefault();
  const wrong = Object.keys(NUMBERS).filter((name) => !checkNumber(name));
  if (!checkKey()) wrong.push('key');
  if (wrong.length > 0) {
    field(wrong[0]).focus();
    return;
  }
  const kept = keepSettings(Object.fromEntries(Object.keys(EMPTY).map((name) => [name, field(name).value])));
  const changed = field('key').value.trim();
  const other = changed !== key;
  keepKey(changed, field('remember').checked);
  dialog.close();
  say(kept ? 'Settings saved.' : 'The settings hold until this page is left: the browser does not let it keep them.');
  settled();
  if (other || !model) connect();
});
