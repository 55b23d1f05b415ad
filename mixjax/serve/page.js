// The page of `mixjax serve`: photographs in, predictions out. Photographs go to this server and nowhere else.
'use strict';

const TOP = 5;
const AT_ONCE = 2; // requests
const TRIES = 20; // of a request that the server is too busy for
const get = (id) => document.getElementById(id);

let token = new URLSearchParams(location.hash.slice(1)).get('token') || '';
let limits = { bytes: Infinity };
let models = [];
let stream = null;
let count = 0;
const queue = [];
let running = 0;

// --- elements -------------------------------------------------------------------------------------------------------

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function say(text) {
  get('status').textContent = text;
}

// --- the server -----------------------------------------------------------------------------------------------------

function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  return fetch(path, { ...options, headers, cache: 'no-store', credentials: 'omit' });
}

async function sentence(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `the server answered with ${response.status}`;
  }
}

async function begin() {
  let response;
  try {
    response = await ask('/models');
  } catch {
    say('The server does not answer. Is it still running?');
    return;
  }
  if (response.status === 401) {
    get('unlock').hidden = false;
    get('token').focus();
    if (token) say('That is not the token.');
    return;
  }
  if (!response.ok) {
    say(await sentence(response));
    return;
  }
  const told = await response.json();
  ({ models, limits } = told);
  say('');
  get('unlock').hidden = true;
  get('drop').hidden = false;
  const names = models.map((one) => one.model).join(', ');
  get('title').textContent = models.length > 1 ? 'Try the networks' : `Try ${names}`;
  document.title = `mixjax: ${names}`;
  get('about').replaceChildren(...models.map((one) => make('p', { class: 'sub' }, describe(one))));
  get('limits').textContent =
    `JPEG, PNG, GIF, WebP, BMP or TIFF, up to ${Math.floor(limits.bytes / 2 ** 20)} MB. Photographs are not kept.`;
  get('camera').hidden = !(navigator.mediaDevices && navigator.mediaDevices.getUserMedia);
}

function describe(one) {
  const what = { classification: 'classes', multi_label: 'labels', regression: 'numbers' }[one.task] || 'outputs';
  const shown = one.classes.slice(0, 6).join(', ') + (one.classes.length > 6 ? ', ..' : '');
  const name = models.length > 1 ? `${one.model}: ` : '';
  return `${name}${one.network}, ${one.classes.length} ${what} (${shown})`;
}

// --- photographs ----------------------------------------------------------------------------------------------------

function add(files) {
  const some = [...files].filter((file) => file.size > 0);
  if (!some.length || get('drop').hidden) return;
  get('tools').hidden = false;
  const cards = [];
  for (const file of some) {
    const card = make('article', { 'aria-label': file.name, 'aria-busy': 'true' });
    const remove = make('button', { type: 'button', 'aria-label': `Remove ${file.name}` }, 'Remove');
    const photo = URL.createObjectURL(file);
    remove.addEventListener('click', () => drop(card, photo));
    card.forget = () => drop(card, photo);
    const title = make('h2', {}, make('bdi', {}, file.name));
    card.append(make('header', {}, title, remove), make('p', { class: 'waiting' }, 'Waiting ..'));
    cards.push(card);
    queue.push(() => predict(file, photo, card));
  }
  get('results').prepend(...cards);
  next();
}

function drop(card, photo) {
  URL.revokeObjectURL(photo);
  const following = card.nextElementSibling || card.previousElementSibling;
  card.remove();
  if (!get('results').children.length) get('tools').hidden = true;
  (following ? following.querySelector('button') : get('choose')).focus();
}

function next() {
  while (running < AT_ONCE && queue.length) {
    running += 1;
    queue.shift()().finally(() => {
      running -= 1;
      next();
    });
  }
}

async function predict(file, photo, card) {
  if (!card.isConnected) return;
  const waiting = card.querySelector('.waiting');
  waiting.textContent = 'Looking ..';
  try {
    const images = await answer(file, waiting);
    waiting.remove();
    show(card, images[0].models, photo);
    say(`${file.name}: ${images[0].models.map(inWords).join('; ')}`);
  } catch (error) {
    waiting.remove();
    card.append(make('p', { class: 'error' }, `${file.name}: ${error.message}`));
    say(`${file.name}: ${error.message}`);
  }
  card.removeAttribute('aria-busy');
}

async function answer(file, waiting) {
  if (file.size > limits.bytes) throw new Error(`it is larger than ${Math.floor(limits.bytes / 2 ** 20)} MB`);
  for (let tried = 1; ; tried += 1) {
    let response;
    try {
      const headers = { 'Content-Type': 'application/octet-stream' };
      response = await ask(`/predict?why=1&top=${TOP}`, { method: 'POST', headers, body: file });
    } catch {
      throw new Error('the server does not answer');
    }
    if (response.ok) return (await response.json()).images;
    if (response.status !== 503 || tried === TRIES) throw new Error(await sentence(response));
    waiting.textContent = 'The server is busy; waiting ..';
    await new Promise((done) => setTimeout(done, 1000 * Number(response.headers.get('Retry-After') || 1)));
  }
}

// --- predictions ----------------------------------------------------------------------------------------------------

function ranked(found) {
  if (found.top) return found.top.map((one, place) => ({ ...one, chosen: place === 0 }));
  const every = Object.entries(found.probabilities).map(([name, probability]) => ({ class: name, probability }));
  every.sort((a, b) => b.probability - a.probability);
  return every.slice(0, Math.max(TOP, found.labels.length)).map((one) => ({ ...one, chosen: one.probability > 0.5 }));
}

function inWords(found) {
  const name = models.length > 1 ? `${found.model}: ` : '';
  if (found.numbers) return name + Object.entries(found.numbers).map(([key, value]) => `${key} ${short(value)}`).join(', ');
  const chosen = ranked(found).filter((one) => one.chosen);
  return name + (chosen.map((one) => `${one.class}, ${percent(one.probability)}`).join(', ') || 'no label');
}

function short(value) {
  return Number(value.toPrecision(5)).toString();
}

function show(card, found, photo) {
  const grid = make('div', { class: 'answers' });
  for (const one of found) {
    const parts = [figure(one, photo, card.getAttribute('aria-label')), verdict(one)];
    const column = make('section', { class: 'model' });
    if (found.length > 1) {
      column.setAttribute('aria-label', one.model);
      column.append(make('h3', {}, make('bdi', {}, one.model)), ...parts);
    } else {
      column.append(make('div', { class: 'two' }, ...parts));
    }
    grid.append(column);
  }
  card.append(grid);
}

function figure(found, photo, name) {
  const map = found.why && found.why.map;
  const image = make('img', { alt: name });
  const figure = make('figure', { class: 'photo' }, image);
  image.dataset.photo = photo;
  if (map) {
    image.dataset.map = map;
    image.dataset.seen = `${name}, with the region marked where the network finds ${found.why.class}`;
    figure.append(make('figcaption', {}, 'Outlined: where it finds ', make('bdi', {}, found.why.class),
      '. Dark: outside of its view.'));
  } else if (found.why && found.why.note) {
    figure.append(make('figcaption', {}, found.why.note));
  }
  image.addEventListener('error', () => { if (map && image.src !== map) image.src = map; }); // a TIFF, for example
  image.dataset.name = name;
  turn(image);
  return figure;
}

function turn(image) {
  const map = get('maps').checked && image.dataset.map;
  image.src = map || image.dataset.photo;
  image.alt = map ? image.dataset.seen : image.dataset.name;
  const caption = image.parentElement.querySelector('figcaption');
  if (caption && image.dataset.map) caption.hidden = !map;
}

function verdict(found) {
  const part = make('div', {});
  if (found.numbers) {
    const list = make('dl', { class: 'numbers' });
    for (const [name, value] of Object.entries(found.numbers)) {
      list.append(make('dt', {}, make('bdi', {}, name)), make('dd', {}, short(value)));
    }
    part.append(list);
  } else {
    part.append(headline(found), bars(found));
  }
  if (found.why && found.why.nearest.length) part.append(...nearest(found.why.nearest));
  return part;
}

function headline(found) {
  const line = make('p', { class: 'headline' });
  const chosen = ranked(found).filter((one) => one.chosen);
  if (found.unknown) line.append('unknown: no class is probable enough');
  else if (!chosen.length) line.append('no label');
  else if (found.top) {
    line.append(make('bdi', {}, chosen[0].class), ' ', make('span', { class: 'value' }, percent(chosen[0].probability)));
  } else line.append(make('bdi', {}, chosen.map((one) => one.class).join(', ')));
  return line;
}

function bars(found) {
  const list = make('ol', { class: 'bars', 'aria-label': 'Probabilities' });
  for (const one of ranked(found)) {
    const full = make('span');
    full.style.width = `${100 * one.probability}%`;
    list.append(make('li', one.chosen ? { class: 'chosen' } : {}, make('span', {}, make('bdi', {}, one.class)),
      make('span', { class: 'value' }, percent(one.probability)), make('span', { class: 'bar', 'aria-hidden': 'true' }, full)));
  }
  return list;
}

function nearest(found) {
  count += 1;
  const title = make('h4', { id: `nearest-${count}` }, 'The nearest labelled images');
  const list = make('ul', { class: 'nearest', 'aria-labelledby': title.id });
  for (const one of found) {
    const item = make('li');
    if (one.image) item.append(make('img', { src: one.image, alt: '' }));
    item.append(make('bdi', {}, one.label), ' ', make('span', { class: 'value' }, one.similarity.toFixed(2)));
    list.append(item);
  }
  return [title, list];
}

// --- the camera -----------------------------------------------------------------------------------------------------

async function open() {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
  } catch {
    say('The camera cannot be used; the browser has not allowed it, or there is none.');
    return;
  }
  get('video').srcObject = stream;
  await get('video').play();
  get('live').hidden = false;
  get('camera').disabled = true;
  get('take').focus();
}

function shut() {
  for (const track of stream ? stream.getTracks() : []) track.stop();
  stream = null;
  get('video').srcObject = null;
  get('live').hidden = true;
  get('camera').disabled = false;
  get('camera').focus();
}

function take() {
  const video = get('video');
  const canvas = make('canvas', { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext('2d').drawImage(video, 0, 0);
  const name = `camera ${new Date().toLocaleTimeString()}`;
  canvas.toBlob((blob) => blob && add([new File([blob], name, { type: 'image/jpeg' })]), 'image/jpeg', 0.92);
}

// --- what a person does ---------------------------------------------------------------------------------------------

get('choose').addEventListener('click', () => get('files').click());
get('files').addEventListener('change', (event) => {
  add(event.target.files);
  event.target.value = '';
});
get('camera').addEventListener('click', open);
get('take').addEventListener('click', take);
get('close').addEventListener('click', shut);
get('clear').addEventListener('click', () => {
  queue.length = 0;
  for (const card of [...get('results').children]) card.forget();
  say('');
});
get('maps').addEventListener('change', () => document.querySelectorAll('.photo img').forEach(turn));
get('unlock').addEventListener('submit', (event) => {
  event.preventDefault();
  token = get('token').value.trim();
  get('token').value = '';
  begin();
});
document.addEventListener('paste', (event) => event.clipboardData && add(event.clipboardData.files));
document.addEventListener('dragover', (event) => {
  event.preventDefault();
  get('drop').classList.add('over');
});
document.addEventListener('dragleave', (event) => event.relatedTarget || get('drop').classList.remove('over'));
document.addEventListener('drop', (event) => {
  event.preventDefault();
  get('drop').classList.remove('over');
  add(event.dataTransfer.files);
});
begin();
