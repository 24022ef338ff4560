// The server under test: one that runs already, or a command that can be stopped and started again.

import { spawn } from "node:child_process";

/** The status of what listens there; undefined where nothing does. */
const status = async (url) => {
  try {
    return (await fetch(new URL("health", url))).status;
  } catch {
    return undefined;
  }
};

const answers = async (url) => (await status(url)) === 200;

export class Server {
  constructor(url, command) {
    this.url = url;
    this.command = command;
  }

  async start() {
    if (!this.command) {
      if (!(await answers(this.url))) throw new Error(`No server answers at ${this.url}; start one, or give --server.`);
      return;
    }
    if (await answers(this.url)) throw new Error(`Another server answers at ${this.url} already; choose another port.`);
    // A group of its own, so that a shell's children are stopped with it.
    this.child = spawn(this.command, { shell: true, detached: true, stdio: ["ignore", "inherit", "inherit"] });
    this.ended = new Promise((resolve) => this.child.once("exit", resolve));
    let dead = false;
    this.ended.then(() => (dead = true));
    const until = Date.now() + 120_000;
    while (!(await answers(this.url))) {
      if (dead || Date.now() > until) throw new Error(`The server did not come up at ${this.url}: ${this.command}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** Stops what `start` started. */
  async stop() {
    if (!this.child) return;
    try {
      process.kill(-this.child.pid, "SIGTERM");
    } catch {
      // It has ended by itself.
    }
    await this.ended;
    this.child = undefined;
    // The shell may end before what it started, which still answers for as long as it drains.
    while ((await status(this.url)) !== undefined) await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
