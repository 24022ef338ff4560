// Requests to the server. A failure is an `ApiError` whose message is a sentence for people.

export class ApiError extends Error {
  /** `status` is 0 where no answer came. */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Told of requests that no answer came to ("lost") and of those that want a key ("locked"). */
export const trouble = new EventTarget();

const KEY = "api-key";
let key = read();

function read() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

export function setKey(value) {
  key = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch {
    // Without storage the key lasts until the page is loaded again.
  }
}

export const hasKey = () => key !== "";

/** The answer to a request, whatever its content; `path` is relative to the page. */
export async function request(path, { method, body, signal, keepalive } = {}) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      keepalive,
      cache: "no-store",
    });
  } catch (error) {
    throw noAnswer(error, "The server does not answer. Try again once it is back.");
  }
  if (response.ok) return response;
  const failure = await failureOf(response);
  if (failure.status === 401) trouble.dispatchEvent(new Event("locked"));
  throw failure;
}

export async function json(path, options) {
  const response = await request(path, options);
  try {
    return await response.json();
  } catch (error) {
    throw noAnswer(error, "The server's answer broke off. Try again.");
  }
}

export async function blob(path, options) {
  const response = await request(path, options);
  try {
    return await response.blob();
  } catch (error) {
    throw noAnswer(error, "The server's answer broke off. Try again.");
  }
}

function noAnswer(error, sentence) {
  if (error.name === "AbortError" || error instanceof ApiError) return error;
  trouble.dispatchEvent(new Event("lost"));
  return new ApiError(sentence, 0);
}

async function failureOf(response) {
  const fallback = `The server answered ${response.status} ${response.statusText}.`.replace(" .", ".");
  let message;
  try {
    message = (await response.json()).error?.message;
  } catch {
    // A proxy's page, perhaps; the status has to do.
  }
  const wait = response.headers.get("retry-after");
  if (response.status === 429 && wait) message = `${message ?? "The server is busy."} Try again in ${wait} s.`;
  return new ApiError(message ?? fallback, response.status);
}

/** The server-sent events of a POST, each `{event, data}` with its data parsed; ends at `[DONE]`. */
export async function* events(path, body, signal) {
  const response = await request(path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const brokeOff = "The answer broke off: the connection to the server was lost. Try again once it is back.";
  let text = "";
  let done = false;
  try {
    while (!done) {
      let part;
      try {
        part = await reader.read();
      } catch (error) {
        throw noAnswer(error, brokeOff);
      }
      done = part.done;
      text += done ? "\n\n" : part.value;
      const blocks = text.split(/\r?\n\r?\n/);
      text = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        if (!event) continue;
        if (event.data === "[DONE]") return;
        yield checked(event);
      }
    }
  } finally {
    // Tells the server that nobody reads on.
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  let event = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  return data.length ? { event, data: data.join("\n") } : undefined;
}

function checked({ event, data }) {
  let value;
  try {
    value = JSON.parse(data);
  } catch {
    throw new ApiError("The answer broke off: the server sent something that cannot be read.", 0);
  }
  if (value.error) throw new ApiError(value.error.message ?? "The server gave up on this.", value.error.code ?? 500);
  return { event, data: value };
}
