// Subscriptions of the Upstash client: server-sent events over HTTP.

import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { after, before, test } from 'node:test'

import { Redis } from '@upstash/redis'

import { Sidecar, TOKEN, waitUntil } from '../support/sidecar.mjs'

let sidecar
let redis

before(async () => {
  sidecar = await Sidecar.start()
  redis = new Redis({ url: sidecar.url, token: TOKEN, enableAutoPipelining: false })
})

after(() => sidecar.stop())

/** What a subscription of the client has heard, once it is under way. */
async function listen(subscription, begun = 'subscribe') {
  const heard = []
  let names = 0
  for (const type of ['message', 'pmessage', 'error']) {
    subscription.on(type, (event) => heard.push(event instanceof Error ? event : { type, ...event }))
  }
  subscription.on(begun, () => (names += 1))
  const wanted = subscription.getSubscribedChannels().length
  await waitUntil('the subscription has begun', () => names === wanted)
  return heard
}

const open = () => sidecar.metric('parallax_subscriptions')

/** A command that goes around the sidecar. */
function raw(...args) {
  return new Promise((resolve, reject) => {
    const socket = connect(sidecar.redisPort, '127.0.0.1')
    socket.once('data', (bytes) => (socket.end(), resolve(bytes.toString())))
    socket.once('error', reject)
    socket.write(`*${args.length}\r\n${args.map((arg) => `$${Buffer.byteLength(arg)}\r\n${arg}\r\n`).join('')}`)
  })
}

test('what is published to a channel reaches its subscribers, objects as objects and texts as they were', async () => {
  const subscription = redis.subscribe(['news', 'other'])
  const heard = await listen(subscription)
  const payloads = [{ a: [1, 'zwei'] }, 'plain', '', 'two\nlines', 'a,b,"c"', 'ünï 🎉', 42, '{\n  "pretty": true\n}']
  for (const payload of payloads) {
    assert.equal(await redis.publish('news', payload), 1)
  }
  await redis.publish('other', 'last')
  await waitUntil('everything was heard', () => heard.length === payloads.length + 1)
  const expected = payloads.with(-1, { pretty: true })
  assert.deepEqual(heard.filter((event) => event.channel === 'news').map((event) => event.message), expected)
  assert.deepEqual(heard.filter((event) => event.channel === 'other'), [{ type: 'message', channel: 'other', message: 'last' }])
  await subscription.unsubscribe()
})

test('a pattern hears every channel that matches it, with both names', async () => {
  const subscription = redis.psubscribe('user:*')
  const heard = await listen(subscription, 'psubscribe')
  await redis.publish('user:1', { is: 'one' })
  await redis.publish('account:1', { is: 'nobody' })
  await redis.publish('user:2', '"two"')
  await waitUntil('both were heard', () => heard.length === 2)
  assert.deepEqual(heard, [
    { type: 'pmessage', pattern: 'user:*', channel: 'user:1', message: { is: 'one' } },
    { type: 'pmessage', pattern: 'user:*', channel: 'user:2', message: 'two' },
  ])
  await subscription.unsubscribe()
})

test('a client that goes away is noticed at once, and its connection to Redis with it', async () => {
  await waitUntil('the earlier ones have ended', async () => (await open()) === 0)
  const subscription = redis.subscribe('leaving')
  await listen(subscription)
  assert.equal(await open(), 1)
  assert.match(await raw('PUBSUB', 'NUMSUB', 'leaving'), /:1\r\n$/)
  await subscription.unsubscribe()
  await waitUntil('nobody subscribes', async () => (await open()) === 0 && /:0\r\n$/.test(await raw('PUBSUB', 'NUMSUB', 'leaving')))
})

test('the channels of the sidecars cannot be heard, written to, or listed', async () => {
  const refused = /PARALLAX keys and channels that begin with `parallax:` are closed/
  for (const path of ['/redis/subscribe/parallax:flags:changed', '/redis/psubscribe/parallax:*', '/redis/subscribe/a/parallax%3Aflags:changed']) {
    const answer = await sidecar.fetch(path)
    assert.equal(answer.status, 403, path)
    assert.match((await answer.json()).error, refused)
  }
  const errors = []
  redis.subscribe('parallax:flags:changed').on('error', (error) => errors.push(error))
  await waitUntil('the client is told', () => errors.length === 1)
  assert.match(errors[0].message, refused)
  await assert.rejects(redis.publish('parallax:flags:changed', '1'), refused)
  await assert.rejects(redis.exec(['PUBSUB', 'NUMSUB', 'parallax:flags:changed']), refused)
  assert.match(await raw('PUBSUB', 'CHANNELS', '*'), /parallax:flags:changed/, 'the sidecar itself listens')
  assert.deepEqual(await redis.exec(['PUBSUB', 'CHANNELS', '*']), [])
})

test('a pattern that matches everything hears no word between sidecars, and no notification about their keys', async () => {
  // With a pattern the client takes nothing but JSON, unless it is told to leave payloads as they are.
  const texts = new Redis({ url: sidecar.url, token: TOKEN, automaticDeserialization: false, enableAutoPipelining: false })
  const subscription = texts.psubscribe('*')
  const heard = await listen(subscription, 'psubscribe')
  await raw('CONFIG', 'SET', 'notify-keyspace-events', 'KEA')
  await sidecar.flag({ sample_rate: 0.5 })
  await raw('SET', 'parallax:test', 'x')
  await raw('SET', 'theirs', 'x')
  await raw('CONFIG', 'SET', 'notify-keyspace-events', '')
  await redis.publish('last', '1')
  await waitUntil('the last was heard', () => heard.some((event) => event.channel === 'last'))
  const told = heard.filter((event) => !(event instanceof Error))
  assert.ok(told.some((event) => event.channel === '__keyspace@0__:theirs'), 'notifications about other keys are heard')
  assert.doesNotMatch(JSON.stringify(heard.map((event) => event.message ?? event)), /parallax:/)
  assert.doesNotMatch(JSON.stringify(heard.map((event) => event.channel ?? '')), /parallax:/)
  await raw('DEL', 'parallax:test')
  await subscription.unsubscribe()
})

test('what would show the commands of everybody is refused', async () => {
  const answer = await sidecar.fetch('/redis/monitor', { method: 'POST', headers: { accept: 'text/event-stream' } })
  assert.equal(answer.status, 403)
  assert.match((await answer.json()).error, /MONITOR would show the commands of everybody/)
})

test('bad requests to subscribe are told what is wrong', async () => {
  for (const [path, more, status] of [
    ['/redis/subscribe', {}, 403],
    ['/redis/subscribe/a', { method: 'DELETE' }, 405],
    ['/redis/subscribe/a', { headers: { authorization: 'Bearer wrong' } }, 401],
  ]) {
    const answer = await sidecar.fetch(path, more)
    assert.equal(answer.status, status, path)
    assert.match((await answer.json()).error, /^PARALLAX /)
  }
})

test('a channel that the ACL of Redis keeps from the sidecar is refused with what to do', async () => {
  await raw('ACL', 'SETUSER', 'default', 'resetchannels', '&parallax:*')
  const answer = await sidecar.fetch('/redis/subscribe/secret')
  await raw('ACL', 'SETUSER', 'default', 'allchannels')
  assert.equal(answer.status, 403)
  assert.match((await answer.json()).error, /^PARALLAX redis refuses it \(NOPERM\): .* ACL$/)
})

test('more subscriptions than the limit are refused, and there is room again when one ends', async () => {
  await waitUntil('the earlier ones have ended', async () => (await open()) === 0)
  const limit = 256
  const requests = await Promise.all(Array.from({ length: limit }, async () => {
    const controller = new AbortController()
    const answer = await sidecar.fetch('/redis/subscribe/crowded', { signal: controller.signal })
    assert.equal(answer.status, 200)
    // An answer that nobody holds is cancelled by the garbage collector.
    return { controller, answer }
  }))
  const one = await sidecar.fetch('/redis/subscribe/crowded')
  assert.equal(one.status, 503)
  assert.match((await one.json()).error, /^PARALLAX/)
  requests.forEach(({ controller }) => controller.abort())
  await waitUntil('they have ended', async () => (await open()) === 0)
})

test('a drain ends subscriptions in good order and at once, also of a client that would go on', async () => {
  const draining = await Sidecar.start()
  const answer = await draining.fetch('/redis/subscribe/news', { headers: { accept: 'text/event-stream' } })
  assert.equal(answer.headers.get('content-type'), 'text/event-stream')
  const began = Date.now()
  const text = answer.text()
  draining.terminate()
  assert.equal(await text, 'data: subscribe,news,1\n\n', 'the stream ended whole')
  await draining.stop()
  assert.ok(Date.now() - began < 10_000, 'nobody waited for the drain deadline')
})

test('when Redis is lost, the subscription ends, so that a reader knows that something may be missing', async () => {
  const answer = await sidecar.fetch('/redis/subscribe/lost')
  const text = answer.text()
  const clients = await raw('CLIENT', 'KILL', 'TYPE', 'pubsub')
  assert.match(clients, /^:[1-9]/)
  assert.equal(await text, 'data: subscribe,lost,1\n\n')
})
