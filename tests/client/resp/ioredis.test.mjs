// ioredis, unmodified, pointed at the Redis door by host and port alone.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import Redis from 'ioredis'

import { Sidecar, waitUntil } from '../support/sidecar.mjs'

let sidecar
let redis
const opened = []

before(async () => {
  sidecar = await Sidecar.start()
  await sidecar.flag({ stage: 'dualwrite' })
  redis = open()
})

after(async () => {
  opened.forEach((client) => client.disconnect())
  await sidecar.stop()
})

function open(port = sidecar.respPort, more = {}) {
  const client = new Redis({ host: '127.0.0.1', port, ...more })
  // Without a listener the client prints each attempt to connect that failed.
  client.on('error', () => {})
  opened.push(client)
  return client
}

test('a pipeline is answered in its order, errors at their places', async () => {
  const pipeline = redis.pipeline()
  for (let number = 0; number < 500; number += 1) pipeline.set(`thing:p:${number}`, number).get(`thing:p:${number}`)
  pipeline.set('thing:text', 'x').incr('thing:text').get('thing:text')
  const answers = await pipeline.exec()
  assert.equal(answers.length, 1003)
  for (let number = 0; number < 500; number += 1) assert.deepEqual(answers[2 * number + 1], [null, String(number)])
  assert.match(answers[1001][0].message, /^ERR value is not an integer/)
  assert.deepEqual(answers[1002], [null, 'x'])
  await sidecar.drained()
  assert.ok((await sidecar.metric('parallax_writes_total', { kind: 'thing' })) >= 501)
})

test('bytes that are no text come back as they went in', async () => {
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
  await redis.set('thing:bytes', bytes)
  assert.deepEqual(await redis.getBuffer('thing:bytes'), bytes)
})

test('a transaction is whole: its replies, an error of one command, and none of it where one is malformed', async () => {
  assert.deepEqual(await redis.multi().set('thing:m', 1).incr('thing:m').exec(), [[null, 'OK'], [null, 2]])
  const [[, one], [error]] = await redis.multi().incr('thing:m').lpush('thing:m', 'x').exec()
  assert.equal(one, 3)
  assert.match(error.message, /^WRONGTYPE/)
  await assert.rejects(redis.multi().incr('thing:m').call('get').exec(), /EXECABORT/)
  assert.equal(await redis.get('thing:m'), '3')
})

test('a transaction is dropped by DISCARD, and by a watched key that another client changed', async () => {
  const one = open()
  await one.set('thing:w', 'first')
  await one.watch('thing:w')
  await redis.set('thing:w', 'second')
  assert.equal(await one.multi().set('thing:w', 'third').exec(), null)
  assert.equal(await redis.get('thing:w'), 'second')
  await one.watch('thing:w')
  assert.deepEqual(await one.multi().set('thing:w', 'third').exec(), [[null, 'OK']], 'nobody changed it this time')
  await one.multi({ pipeline: false })
  assert.equal(await one.set('thing:w', 'never'), 'QUEUED')
  assert.equal(await one.discard(), 'OK')
  assert.equal(await one.get('thing:w'), 'third')
})

test('messages reach subscribers of channels and of patterns', async () => {
  const subscriber = open()
  const heard = []
  subscriber.on('message', (...event) => heard.push(event))
  subscriber.on('pmessage', (...event) => heard.push(event))
  await subscriber.subscribe('news')
  await subscriber.psubscribe('user:*')
  assert.equal(await redis.publish('news', 'hello'), 1)
  await redis.publish('user:1', 'there')
  await waitUntil('both were heard', () => heard.length === 2)
  assert.deepEqual(heard, [['news', 'hello'], ['user:*', 'user:1', 'there']])
  // By their names: without them ioredis waits for more answers than Redis gives while the other kind is subscribed.
  await subscriber.unsubscribe('news')
  await subscriber.punsubscribe('user:*')
  assert.equal(await subscriber.ping(), 'PONG', 'it takes commands again')
})

test('a blocking command waits for what another client pushes; on a mirrored record it is refused', async () => {
  const blocked = open()
  const popped = blocked.blpop('queue', 10)
  await waitUntil('it waits', async () => /blocked_clients:[1-9]/.test(await redis.info('clients')))
  await redis.rpush('queue', 'work')
  assert.deepEqual(await popped, ['queue', 'work'])
  await assert.rejects(blocked.blpop('thing:queue', 1), /^ReplyError: PARALLAX .*(block|mirrored)/)
})

test('scripts run by their text and by their digest, and are sent again where they are not known', async () => {
  redis.defineCommand('addtwo', { numberOfKeys: 1, lua: "return redis.call('incrby', KEYS[1], ARGV[1]) + redis.call('incrby', KEYS[1], ARGV[1])" })
  assert.equal(await redis.addtwo('thing:script', 1), 3)
  assert.equal(await redis.addtwo('thing:script', 1), 7)
  await assert.rejects(redis.evalsha('0'.repeat(40), 0), /NOSCRIPT/)
  assert.equal(await redis.get('thing:script'), '4')
})

test('keys of the sidecar are neither listed nor open', async () => {
  assert.ok((await open(sidecar.redisPort).keys('parallax:*')).length > 0, 'they are there')
  const listed = []
  for await (const keys of redis.scanStream({ count: 100 })) listed.push(...keys)
  assert.ok(listed.includes('thing:text'))
  assert.deepEqual(listed.filter((key) => key.startsWith('parallax:')), [])
  assert.deepEqual(await redis.keys('parallax:*'), [])
  await assert.rejects(redis.hgetall('parallax:flags'), /PARALLAX/)
  await assert.rejects(redis.publish('parallax:flags:changed', '1'), /PARALLAX/)
})

test('errors are those of Redis, word for word', async () => {
  const bare = open(sidecar.redisPort)
  await redis.set('thing:string', 'x')
  for (const command of [['get'], ['nosuch', 'a'], ['lpush', 'thing:string', 'x'], ['set', 'a', 'b', 'XX', 'NX'], ['incrby', 'thing:string', 'x'], ['exec'], ['discard'], ['select', '99']]) {
    const texts = await Promise.all([redis, bare].map((client) => client.call(...command).then(() => 'no error', (error) => error.message)))
    assert.equal(texts[0], texts[1], command.join(' '))
  }
})

test('a client goes on over the next sidecar when one was drained, and sends again what was not answered', async () => {
  const first = await Sidecar.startBeside(sidecar)
  const client = open(first.respPort, { retryStrategy: () => 20, maxRetriesPerRequest: null })
  await client.set('thing:reconnect', 0)
  let sent = 0
  let isOver = false
  const writing = (async () => {
    while (!isOver) {
      sent += 1
      await client.set('thing:reconnect', sent)
    }
  })()
  await waitUntil('writes are under way', () => sent > 20)
  await first.stop()
  const next = await Sidecar.startBeside(sidecar, { PARALLAX_RESP_LISTEN: `127.0.0.1:${first.respPort}` })
  const before = sent
  await waitUntil('writes go on', () => sent > before + 20)
  isOver = true
  await writing
  assert.equal(await client.get('thing:reconnect'), String(sent))
  client.disconnect()
  await next.stop()
})
