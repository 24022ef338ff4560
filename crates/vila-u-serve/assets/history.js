// What was generated, kept in this browser: IndexedDB, or memory where that is forbidden. The oldest make room.

const MOST_ITEMS = 240;
const MOST_BYTES = 96 << 20;

let memory = [];
let database;

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** The database, or null where there is none. */
function open() {
  database ??= (async () => {
    try {
      const request = indexedDB.open("vila-u", 1);
      request.onupgradeneeded = () => request.result.createObjectStore("items", { keyPath: "id" });
      return await done(request);
    } catch {
      return null;
    }
  })();
  return database;
}

async function store(mode) {
  const opened = await open();
  return opened?.transaction("items", mode).objectStore("items");
}

/** Everything kept, the oldest first. */
export async function all() {
  const items = await store("readonly");
  const list = items ? await done(items.getAll()) : [...memory];
  return list.sort((a, b) => a.created - b.created || a.index - b.index);
}

/** Keeps an item `{id, created, index, blob, ...}`. */
export async function keep(item) {
  const items = await store("readwrite");
  try {
    if (items) await done(items.put(item));
    else memory.push(item);
  } catch {
    // A full disk: what is new is shown all the same, only not kept.
    return;
  }
  const list = await all();
  let bytes = list.reduce((sum, one) => sum + one.blob.size, 0);
  while (list.length > MOST_ITEMS || (bytes > MOST_BYTES && list.length > 1)) {
    const oldest = list.shift();
    bytes -= oldest.blob.size;
    await remove(oldest.id);
  }
}

async function remove(id) {
  const items = await store("readwrite");
  if (items) await done(items.delete(id));
  else memory = memory.filter((one) => one.id !== id);
}

export async function clear() {
  const items = await store("readwrite");
  if (items) await done(items.clear());
  memory = [];
}
