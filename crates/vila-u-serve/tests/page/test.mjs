// Tests the page of a running server in headless Chromium:
//
//   node test.mjs --url http://127.0.0.1:8000 [--server "vila-u serve --port 8000"] [--shots FOLDER] [--only NAME]
//
// With --server the command is started, stopped and started again; without, being offline stands in for that.

import { parseArgs } from "node:util";
import { launch, open } from "./browser.mjs";
import { chat } from "./chat.mjs";
import { create } from "./create.mjs";
import { frame } from "./frame.mjs";
import { inside } from "./inside.mjs";
import { Server } from "./server.mjs";
import { shots } from "./shots.mjs";

const { values } = parseArgs({
  options: {
    url: { type: "string", default: process.env.VILA_U_URL ?? "http://127.0.0.1:8000" },
    server: { type: "string" },
    shots: { type: "string" },
    only: { type: "string" },
    chromium: { type: "string", default: process.env.CHROMIUM ?? "/usr/bin/chromium" },
    timeout: { type: "string", default: "60" },
  },
});

const timeout = Number(values.timeout) * 1000;
const url = values.url.endsWith("/") ? values.url : `${values.url}/`;
const server = new Server(url, values.server);
const groups = { frame, chat, create, inside };
const wanted = (name) => !values.only || name === values.only;
let failures = 0;

function report(name, started, error) {
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`${error ? "FAILED" : "ok    "} ${name} (${seconds} s)`);
  if (!error) return;
  failures += 1;
  console.log(`  ${error.stack}`);
}

/** Runs the tests of one group in order on one page; what goes wrong ends the group. */
async function runGroup(browser, group, tests) {
  const opened = await open(browser, url, { timeout });
  for (const test of tests) {
    const name = `${group}: ${test.name}`;
    const started = performance.now();
    try {
      await test({ ...opened, server });
      if (opened.errors.length) throw new Error(`Console errors:\n  ${opened.errors.join("\n  ")}`);
      report(name, started);
    } catch (error) {
      report(name, started, error);
      if (values.shots) await opened.page.screenshot({ path: `${values.shots}/failed-${group}-${test.name}.png` });
      break;
    }
  }
  await opened.context.close();
}

try {
  await server.start();
  const browser = await launch(values.chromium);
  try {
    for (const [group, tests] of Object.entries(groups)) if (wanted(group)) await runGroup(browser, group, tests);
    if (wanted("shots")) {
      const started = performance.now();
      try {
        const errors = await shots(browser, url, values.shots, timeout);
        report("every tab on a desk and a phone, light and dark", started, errors.length ? new Error(errors.join("\n  ")) : undefined);
      } catch (error) {
        report("every tab on a desk and a phone, light and dark", started, error);
      }
    }
  } finally {
    await browser.close();
  }
} catch (error) {
  report("start", performance.now(), error);
} finally {
  await server.stop();
}
console.log(failures ? `${failures} failed` : "all passed");
process.exitCode = failures ? 1 : 0;
