// What the Upstash client expects of the door beside the commands: encodings, errors, tokens, retries.

import assert from 'node:assert/strict'
import { createServer, connect } from 'node:net'
import { after, before, test } from 'node:test'

import { Redis } from '@upstash/redis'

import { Sidecar, TOKEN } from '../support/sidecar.mjs'

const JSON_BODY = { method: 'POST', headers: { 'content-type': 'application/json' } }

let sidecar
let redis

before(async () => {
  sidecar = await Sidecar.start()
  await sidecar.flag({ stage: 'dualwrite' })
  redis = client()
})

after(() => sidecar.stop())

function client(more = {}) {
  return new Redis({ url: sidecar.url, token: TOKEN, enableAutoPipelining: false, ...more })
}

/** The error of a call that must fail. */
async function failure(call) {
  return assert.rejects(call, (error) => { failure.last = error; return true }).then(() => failure.last)
}

test('answers in base64 and in plain text are the same, nested arrays too', async () => {
  const plain = client({ responseEncoding: false })
  await redis.set('thing:text', 'ünï "x" \\ \n 🎉')
  const script = "return {KEYS[1], {'a', {'b', {'ü', 1, false}}}, 'OK', redis.status_reply('OK')}"
  for (const one of [redis, plain]) {
    assert.equal(await one.get('thing:text'), 'ünï "x" \\ \n 🎉')
    assert.deepEqual(await one.eval(script, ['k'], []), ['k', ['a', ['b', ['ü', 1, null]]], 'OK', 'OK'])
    assert.equal(await one.set('thing:ok', 'OK'), 'OK')
    assert.equal(await one.get('thing:ok'), 'OK')
    assert.deepEqual(await one.pipeline().get('thing:ok').mget('thing:text', 'no').exec(), ['OK', ['ünï "x" \\ \n 🎉', null]])
  }
})

test('values are written and read as JSON, or as they are where that is asked for', async () => {
  const raw = client({ automaticDeserialization: false })
  await redis.set('thing:json', { a: [1, { b: 'ü' }], c: null })
  assert.deepEqual(await redis.get('thing:json'), { a: [1, { b: 'ü' }], c: null })
  assert.equal(await raw.get('thing:json'), '{"a":[1,{"b":"ü"}],"c":null}')
  await redis.hset('thing:mixed', { number: 1.5, text: '1e3', yes: true, big: '98765432109876543210' })
  assert.deepEqual({ ...(await redis.hgetall('thing:mixed')) }, { number: '1.5', text: 1000, yes: true, big: '98765432109876543210' }, 'the client reads whole numbers alone')
})

test('a value larger than the 64 KiB that browsers allow a kept-alive fetch goes through', async () => {
  const large = 'ü'.repeat(2 << 20)
  await redis.set('thing:large', large)
  assert.equal(await redis.get('thing:large'), large)
})

test('an error of Redis is an error of the client, with the text of Redis', async () => {
  await redis.set('thing:string', 'x')
  const wrongType = await failure(redis.lpush('thing:string', 'y'))
  assert.equal(wrongType.name, 'UpstashError')
  assert.match(wrongType.message, /^WRONGTYPE Operation against a key holding the wrong kind of value, command was: \["lpush"/)
  const answer = await sidecar.fetch('/redis', { ...JSON_BODY, body: '["INCR","thing:string"]' })
  assert.equal(answer.status, 400)
  assert.deepEqual(await answer.json(), { error: 'ERR value is not an integer or out of range' })
  assert.match((await failure(redis.exec(['SET', 'thing:string']))).message, /^ERR wrong number of arguments for 'set' command/)
})

test('in a pipeline a failed command is named, and the others are done', async () => {
  await redis.set('thing:string', 'x')
  const failed = await failure(redis.pipeline().set('thing:one', 1).incr('thing:string').set('thing:two', 2).exec())
  assert.equal(failed.message, 'Command 2 [ incr ] failed: ERR value is not an integer or out of range')
  assert.deepEqual(await redis.mget('thing:one', 'thing:two'), [1, 2])
  const kept = await redis.pipeline().get('thing:one').incr('thing:string').flushall().exec({ keepErrors: true })
  assert.deepEqual(kept[0], { error: undefined, result: 1 })
  assert.equal(kept[1].error, 'ERR value is not an integer or out of range')
  assert.match(kept[2].error, /^PARALLAX FLUSHALL acts on the server/)
})

test('a transaction is done whole or, where a command is refused or malformed, not at all', async () => {
  await redis.del('thing:count')
  assert.deepEqual(await redis.multi().incr('thing:count').incr('thing:count').get('thing:count').exec(), [1, 2, 2])
  const refused = await failure(redis.multi().incr('thing:count').flushdb().exec())
  assert.match(refused.message, /^PARALLAX FLUSHDB acts on the server/)
  const malformed = await failure(sidecarTransaction([['INCR', 'thing:count'], ['GET']]))
  assert.match(malformed.message, /wrong number of arguments|EXECABORT/)
  assert.equal(await redis.get('thing:count'), 2)
  const failed = await failure(redis.multi().incr('thing:count').lpush('thing:count', 'x').exec())
  assert.match(failed.message, /^Command 2 \[ lpush \] failed: WRONGTYPE/)
  assert.equal(await redis.get('thing:count'), 3)
})

async function sidecarTransaction(commands) {
  const answer = await sidecar.fetch('/redis/multi-exec', { ...JSON_BODY, body: JSON.stringify(commands) })
  if (!answer.ok) throw new Error((await answer.json()).error)
}

test('calls of one moment are pipelined without being asked, and each has its own answer or error', async () => {
  const auto = client({ enableAutoPipelining: true })
  await auto.set('thing:string', 'x')
  const calls = [auto.incr('thing:auto'), auto.incr('thing:auto'), auto.get('thing:string'), auto.incr('thing:string').catch((error) => error.message)]
  assert.deepEqual(await Promise.all(calls), [1, 2, 'x', 'Command failed: ERR value is not an integer or out of range'])
  assert.equal(auto.pipelineCounter, 3, 'set alone, then the writes together and the read')
})

test('a script is sent by its digest first, and whole where Redis does not have it', async () => {
  const script = redis.createScript(`return {ARGV[1], '${Date.now()}'}`)
  const [first] = await script.exec([], ['hello'])
  assert.equal(first, 'hello')
  assert.equal((await script.evalsha([], ['again']))[0], 'again')
  const readOnly = redis.createScript('return ARGV[1]', { readonly: true })
  assert.equal(await readOnly.exec([], ['ro']), 'ro')
})

test('a wrong or missing token is told in the form of the client, and shows no token', async () => {
  for (const token of ['wrong', '']) {
    const answer = await fetch(sidecar.url, { method: 'POST', headers: { authorization: `Bearer ${token}` }, body: '["PING"]' })
    assert.equal(answer.status, 401)
    const { error } = await answer.json()
    assert.equal(error, 'PARALLAX send `Authorization: Bearer <token>`')
  }
  const error = await failure(client({ token: 'wrong' }).get('a'))
  assert.equal(error.message, 'PARALLAX send `Authorization: Bearer <token>`, command was: ["get","a"]')
})

test('the client sends its token in the header alone; one in the query would reach logs and is refused', async () => {
  const seen = await requestOf((url) => new Redis({ url, token: TOKEN, retry: false, enableAutoPipelining: false }).get('a'))
  assert.match(seen, new RegExp(`\\r\\nauthorization: Bearer ${TOKEN}\\r\\n`, 'i'))
  assert.doesNotMatch(seen.split('\r\n')[0], /_token/)
  const answer = await sidecar.fetch(`/redis/get/a?_token=${TOKEN}`)
  assert.equal(answer.status, 400)
  assert.match((await answer.json()).error, /Authorization header/)
})

/** The first request that a client makes, as it is on the wire. */
async function requestOf(call) {
  const server = createServer()
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const request = new Promise((resolve) => server.on('connection', (socket) => {
    socket.once('data', (bytes) => {
      socket.end('HTTP/1.1 200 OK\r\ncontent-length: 15\r\nconnection: close\r\n\r\n{"result":null}')
      resolve(bytes.toString())
    })
  }))
  await call(`http://127.0.0.1:${server.address().port}`)
  server.close()
  return request
}

test('the headers of the client that mean nothing here are let pass', async () => {
  const answer = await sidecar.fetch('/redis', {
    method: 'POST',
    headers: { 'upstash-sync-token': 'anything', 'upstash-telemetry-sdk': 'x', 'upstash-telemetry-retry': '1', 'content-type': 'application/json' },
    body: '["PING"]',
  })
  assert.deepEqual(await answer.json(), { result: 'PONG' })
  assert.equal(redis.readYourWritesSyncToken, '', 'Redis answers every read here: there is nothing to synchronise')
})

test('the path form takes a body as the last argument and the query behind it', async () => {
  const answer = await sidecar.fetch('/redis/set/thing:path?EX=100', { method: 'POST', body: 'of the body' })
  assert.deepEqual(await answer.json(), { result: 'OK' })
  assert.deepEqual(await (await sidecar.fetch('/redis/get/thing:path')).json(), { result: 'of the body' })
})

test('a call whose connection breaks is tried again by the client, which reaches the door again', async () => {
  let connections = 0
  const target = new URL(sidecar.data)
  const proxy = createServer((socket) => {
    connections += 1
    if (connections <= 2) return socket.destroy()
    const upstream = connect(Number(target.port), target.hostname)
    socket.pipe(upstream).pipe(socket)
    upstream.on('error', () => socket.destroy())
    socket.on('error', () => upstream.destroy())
  })
  await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  const retrying = client({ url: `http://127.0.0.1:${proxy.address().port}/redis`, retry: { retries: 3, backoff: () => 5 } })
  assert.equal(await retrying.ping(), 'PONG')
  assert.equal(connections, 3)
  proxy.close()
  proxy.closeAllConnections?.()
})

test('many calls at once share kept-alive connections', async () => {
  const answers = await Promise.all(Array.from({ length: 200 }, (_, index) => redis.set(`thing:many:${index}`, index)))
  assert.ok(answers.every((answer) => answer === 'OK'))
  assert.equal(await redis.get('thing:many:199'), 199)
})
