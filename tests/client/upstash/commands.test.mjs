// Every command of the Upstash client, made in each way the client has, on records of every stage: the answers are the same.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { Redis } from '@upstash/redis'

import { Sidecar, TOKEN } from '../support/sidecar.mjs'
import { COMMANDS, NOT_IN_PLAIN_REDIS, NO_COMMANDS, REFUSED, SINCE } from './commands.mjs'

let sidecar
let redis

before(async () => {
  sidecar = await Sidecar.start()
  redis = new Redis({ url: sidecar.url, token: TOKEN, enableAutoPipelining: false })
})

after(() => sidecar.stop())

/** The functions below `value`, by their path: `get`, `json.set`, `search.alias.list`. */
function methods(value, path = '') {
  const names = new Set(Object.keys(value))
  for (let level = Object.getPrototypeOf(value); level !== Object.prototype; level = Object.getPrototypeOf(level)) {
    Object.getOwnPropertyNames(level).forEach((name) => names.add(name))
  }
  names.delete('constructor')
  return [...names].flatMap((name) => {
    if (path === '' && ['client', 'opts', 'autoPipelineExecutor'].includes(name)) return []
    const found = value[name]
    if (typeof found === 'function') return [path + name]
    return found && typeof found === 'object' ? methods(found, `${path}${name}.`) : []
  })
}

const groups = (table) => Object.values(table).flatMap((group) => Object.keys(group))

/** The method of `client` at this path, bound. */
function method(client, path) {
  const names = path.split('.')
  const last = names.pop()
  const owner = names.reduce((value, name) => value[name], client)
  return owner[last].bind(owner)
}

function check(step, answer, where) {
  const [name, args, expected] = step
  const said = `${where}: ${name}(${JSON.stringify(args)})`
  if (typeof expected === 'function') {
    assert.ok(expected(answer), `${said} answered ${JSON.stringify(answer)}`)
  } else {
    assert.deepEqual(answer, expected, said)
  }
}

/** How the client can make its calls. A builder (`bitfield`) is finished by the fourth part of its step. */
const WAYS = {
  async directly(steps) {
    const answers = []
    for (const [name, args, , finish] of steps) {
      const called = method(redis, name)(...args)
      answers.push(await (finish ? finish(called).exec() : called))
    }
    return answers
  },
  pipeline: (steps) => together(redis.pipeline(), steps),
  transaction: (steps) => together(redis.multi(), steps),
  async automatically(steps) {
    const auto = new Redis({ url: sidecar.url, token: TOKEN, enableAutoPipelining: true })
    // The client forgets to send a builder that is auto-pipelined; there is nothing that a server could do.
    const calls = steps.filter(([, , , finish]) => !finish)
    const answers = []
    for (const [name, args] of calls) {
      answers.push(await method(auto, name)(...args))
    }
    return steps.map((step) => (step[3] ? step[2] : answers.shift()))
  },
}

async function together(pipeline, steps) {
  for (const [name, args, , finish] of steps) {
    const called = method(pipeline, name)(...args)
    if (finish) finish(called).exec()
  }
  return await pipeline.exec()
}

async function everyCommand(prefix, table = COMMANDS) {
  for (const [name, steps] of Object.entries(table)) {
    for (const [way, make] of Object.entries(WAYS)) {
      // The `exec` of a pipeline is what sends it.
      if (name === 'exec' && (way === 'pipeline' || way === 'transaction')) continue
      const planned = steps((part) => `${prefix}:${name}:${way}:${part}`)
      const answers = await make(planned)
      planned.forEach((step, index) => check(step, answers[index], `${prefix} ${name} ${way}`))
    }
  }
}

test('the table names every method of the client', () => {
  const named = [
    ...Object.keys(COMMANDS), ...groups(SINCE), ...groups(NOT_IN_PLAIN_REDIS), ...Object.keys(REFUSED), ...Object.keys(NO_COMMANDS),
  ]
  assert.deepEqual(methods(redis).sort(), named.sort())
})

test('a record that is not mirrored: every command answers as Redis does', () => everyCommand('plain'))

test('a mirrored record in stage off: the same answers', () => everyCommand('thing:off'))

test('a mirrored record in stage dualwrite: the same answers', async () => {
  await sidecar.flag({ stage: 'dualwrite' })
  await everyCommand('thing:dualwrite')
  assert.ok((await sidecar.metric('parallax_writes_total', { kind: 'thing' })) > 0, 'nothing was mirrored')
})

test('a mirrored record in stage live: the same answers, from Postgres where it may answer', async () => {
  await sidecar.drained()
  const written = await everything('thing:dualwrite:*')
  assert.ok(written.length > 100, `${written.length} records`)
  await sidecar.raiseToLive()
  await sidecar.drained()
  const before = await sidecar.metric('parallax_reads_total', { kind: 'thing', store: 'postgres' })
  assert.deepEqual(await everything('thing:dualwrite:*'), written)
  const answered = (await sidecar.metric('parallax_reads_total', { kind: 'thing', store: 'postgres' })) - before
  assert.ok(answered > 100, `Postgres answered ${answered} reads only`)
  await everyCommand('thing:live')
})

/** Every record that matches, read with the client, in an order of its own. */
async function everything(match) {
  const read = {
    string: (key) => redis.get(key),
    hash: (key) => redis.hgetall(key),
    list: (key) => redis.lrange(key, 0, -1),
    set: async (key) => (await redis.smembers(key)).map((member) => JSON.stringify(member)).sort(),
    zset: (key) => redis.zrange(key, 0, -1, { withScores: true }),
    stream: (key) => redis.xrange(key, '-', '+'),
  }
  const keys = (await redis.keys(match)).sort()
  return Promise.all(keys.map(async (key) => {
    const type = await redis.type(key)
    return { key, type, value: await read[type](key) }
  }))
}

test('commands of later servers are answered where the server knows them', async (t) => {
  for (const [since, commands] of Object.entries(SINCE)) {
    const known = await Promise.all(Object.keys(commands).map((name) => redis.exec(['COMMAND', 'INFO', name]).then(([info]) => info !== null)))
    if (known.every(Boolean)) {
      await everyCommand(`plain:${since}`, commands)
      continue
    }
    t.diagnostic(`SKIPPED: ${Object.keys(commands).join(', ')} need ${since}`)
    for (const [name, steps] of Object.entries(commands)) {
      const [, args] = steps((part) => part).at(-1)
      await assert.rejects(method(redis, name)(...args), /PARALLAX the server does not know the command/, name)
    }
  }
})

test('what a plain Redis does not have is said to be unknown, by its name', async () => {
  for (const [why, commands] of Object.entries(NOT_IN_PLAIN_REDIS)) {
    for (const [name, args] of Object.entries(commands)) {
      await assert.rejects(async () => method(redis, name)(...args), /PARALLAX the server does not know the command/, `${name}, of ${why}`)
    }
  }
})

test('what acts on the server or belongs to a connection is refused with the reason', async () => {
  for (const [name, { args, because }] of Object.entries(REFUSED)) {
    await assert.rejects(method(redis, name)(...args), new RegExp(`PARALLAX .*${because}`), name)
  }
})
