// A real sidecar as a process, with a private Redis and a private PostgreSQL that are gone when it ends: `parallax dev`
// on free ports. Its log is under test: whatever it warns of and nobody expected fails the test that ends it.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { createInterface } from 'node:readline'

/** How long anything may take before a test gives up. */
export const PATIENCE_MS = 30_000

/** The token of the data door in these tests. */
export const TOKEN = 'a-token-of-the-client-tests'

/** The kinds of these tests: `thing:*` is mirrored as documents, what is not in the catalog stays in Redis. */
const CATALOG = fileURLToPath(new URL('./catalog.toml', import.meta.url))

/** Waits until `isSo` answers true. */
export async function waitUntil(what, isSo) {
  const deadline = Date.now() + PATIENCE_MS
  while (!(await isSo())) {
    assert.ok(Date.now() < deadline, `${what}: not so after ${PATIENCE_MS} ms`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

export class Sidecar {
  #child
  #log = []
  #ended
  #isAsked = false

  /** Starts one; `variables` are further settings. */
  static start(variables = {}) {
    return new Sidecar().#begin('dev', variables)
  }

  /** Starts one more on the servers of `other`, which outlive it. */
  static startBeside(other, variables = {}) {
    const stores = { REDIS_HOST: '127.0.0.1', REDIS_PORT: String(other.redisPort), DATABASE_URL: other.databaseUrl }
    return new Sidecar().#begin('serve', { ...stores, ...variables })
  }

  async #begin(role, variables) {
    const program = process.env.PARALLAX_BIN ?? fileURLToPath(new URL('../../../target/debug/parallax', import.meta.url))
    assert.ok(existsSync(program), `${program} is not there: cargo build, or name it in PARALLAX_BIN`)
    const env = {
      PATH: process.env.PATH,
      PARALLAX_LOG_FORMAT: 'json',
      PARALLAX_HTTP_LISTEN: '127.0.0.1:0',
      PARALLAX_ADMIN_LISTEN: '127.0.0.1:0',
      PARALLAX_RESP_LISTEN: '127.0.0.1:0',
      PARALLAX_HTTP_TOKEN: TOKEN,
      // Tests put into Redis what they need past the sidecar.
      PARALLAX_REDIS_BYPASS: 'ignore',
      PARALLAX_CATALOG: CATALOG,
      ...variables,
    }
    this.#child = spawn(program, [role], { env, stdio: ['ignore', 'pipe', 'pipe'] })
    this.#ended = new Promise((resolve) => this.#child.once('exit', (code, signal) => resolve({ code, signal })))
    // Should a test file end without ending it: the child goes by its id, and takes its servers along.
    process.once('exit', () => this.#child.exitCode === null && this.#child.kill('SIGTERM'))
    createInterface(this.#child.stderr).on('line', (line) => this.#log.push(parsed(line)))
    createInterface(this.#child.stdout).on('line', (line) => {
      this.redisPort ??= Number(/redis-cli -p (\d+)/.exec(line)?.[1]) || undefined
      this.databaseUrl ??= /psql (postgres:\S+)/.exec(line)?.[1]
    })
    const doors = () => this.#log.find((line) => line.data && line.admin)
    await waitUntil('the doors are open', () => {
      assert.equal(this.#child.exitCode, null, `it ended at its start: ${JSON.stringify(this.#log)}`)
      return Boolean(doors() && (role === 'serve' || (this.redisPort && this.databaseUrl)))
    })
    this.data = `http://${doors().data}`
    this.admin = `http://${doors().admin}`
    this.respPort = Number(doors().resp?.split(':').at(-1))
    await waitUntil('the sidecar is ready', async () => (await fetch(`${this.admin}/readyz`)).ok)
    return this
  }

  /** What the Upstash clients call the URL of the database. */
  get url() {
    return `${this.data}/redis`
  }

  /** A request to the data door with the token; `more` as for fetch. */
  fetch(path, more = {}) {
    return fetch(`${this.data}${path}`, { ...more, headers: { authorization: `Bearer ${TOKEN}`, ...more.headers } })
  }

  /** Changes the flag of all kinds, past the gates that ask for proofs and samples. */
  async flag(change) {
    const { version } = await (await fetch(`${this.admin}/v1/flags`)).json()
    const answer = await fetch(`${this.admin}/v1/flags/*`, {
      method: 'PATCH',
      headers: { 'content-type': 'application/json', 'if-match': `"${version}"` },
      body: JSON.stringify({ ...change, override: true, reason: 'a test that is not about gates' }),
    })
    assert.equal(answer.status, 200, await answer.text())
  }

  /** Brings all kinds up to live, every key read from Postgres: through each stage, with a backfill before live. */
  async raiseToLive() {
    await this.flag({ stage: 'shadow', sample_rate: 0 })
    const started = await fetch(`${this.admin}/v1/jobs`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ job: 'backfill', kinds: ['*'] }),
    })
    const { id } = await started.json()
    assert.equal(started.status, 202)
    const job = async () => (await fetch(`${this.admin}/v1/jobs/${id}`)).json()
    await waitUntil('the backfill has ended', async () => (await job()).state !== 'running')
    assert.equal((await job()).state, 'done')
    await this.flag({ stage: 'live', percent: 100, deadline_ms: 5000 })
  }

  /** Waits until no record is marked any more. */
  async drained() {
    await waitUntil('the outbox is empty', async () => {
      const status = await (await fetch(`${this.admin}/v1/status`)).json()
      return status.outbox.depth === 0
    })
  }

  /** The sum of a metric over all series whose labels include `labels`. */
  async metric(name, labels = {}) {
    const text = await (await fetch(`${this.admin}/metrics`)).text()
    const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`)
    return text
      .split('\n')
      .filter((line) => (line.startsWith(`${name}{`) || line.startsWith(`${name} `)) && wanted.every((label) => line.includes(label)))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
  }

  /** Asks it to end, and does not wait. */
  terminate() {
    // A second signal would mean: at once, without draining.
    if (!this.#isAsked) this.#child.kill('SIGTERM')
    this.#isAsked = true
  }

  /** Ends it in order. Every warning of its log must contain one of `expected`. */
  async stop(expected = []) {
    this.terminate()
    const { code, signal } = await this.#ended
    assert.deepEqual({ code, signal }, { code: 0, signal: null }, JSON.stringify(this.#log))
    const loud = this.#log.filter((line) => line.level === 'WARN' || line.level === 'ERROR').map((line) => JSON.stringify(line))
    const unexpected = loud.filter((line) => !expected.some((text) => line.includes(text)))
    assert.deepEqual(unexpected, [], 'nobody expected these lines of the log')
  }
}

function parsed(line) {
  try {
    return JSON.parse(line)
  } catch {
    return { level: 'ERROR', raw: line }
  }
}
