// node-redis, unmodified, on the Redis door in both protocols.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { createClient } from 'redis'

import { Sidecar, waitUntil } from '../support/sidecar.mjs'

let sidecar
const opened = []

before(async () => {
  sidecar = await Sidecar.start()
  await sidecar.flag({ stage: 'dualwrite' })
})

after(async () => {
  opened.filter((client) => client.isOpen).forEach((client) => client.destroy())
  await sidecar.stop()
})

async function open(RESP, port = sidecar.respPort) {
  const client = createClient({ RESP, socket: { host: '127.0.0.1', port } })
  client.on('error', () => {})
  await client.connect()
  opened.push(client)
  return client
}

for (const RESP of [2, 3]) {
  const key = (name) => `thing:resp${RESP}:${name}`

  test(`RESP${RESP}: values of every type come back as what they are`, async () => {
    const redis = await open(RESP)
    await redis.hSet(key('hash'), { a: '1', b: 'two' })
    assert.deepEqual({ ...(await redis.hGetAll(key('hash'))) }, { a: '1', b: 'two' })
    await redis.zAdd(key('zset'), [{ score: 1.5, value: 'x' }, { score: 2, value: 'y' }])
    assert.deepEqual(await redis.zRangeWithScores(key('zset'), 0, -1), [{ value: 'x', score: 1.5 }, { value: 'y', score: 2 }])
    assert.equal(await redis.zScore(key('zset'), 'x'), 1.5)
    await redis.sAdd(key('set'), ['x', 'y'])
    assert.deepEqual([...(await redis.sMembers(key('set')))].sort(), ['x', 'y'])
    await redis.xAdd(key('stream'), '1-1', { a: '1' })
    const [entry] = await redis.xRange(key('stream'), '-', '+')
    assert.deepEqual([entry.id, { ...entry.message }], ['1-1', { a: '1' }])
    assert.equal(await redis.get(key('absent')), null)
  })

  test(`RESP${RESP}: commands of one moment are pipelined, transactions are whole`, async () => {
    const redis = await open(RESP)
    const counted = await Promise.all(Array.from({ length: 300 }, () => redis.incr(key('count'))))
    assert.deepEqual(counted, Array.from({ length: 300 }, (_, index) => index + 1))
    assert.deepEqual(await redis.multi().incr(key('count')).get(key('count')).exec(), [301, '301'])
    const other = await open(RESP)
    await redis.watch(key('count'))
    await other.set(key('count'), '0')
    await assert.rejects(redis.multi().incr(key('count')).exec(), { name: 'Error', message: /.*/ }, 'the watched key changed')
    assert.equal(await other.get(key('count')), '0')
  })

  test(`RESP${RESP}: messages reach subscribers`, async () => {
    const [subscriber, publisher] = [await open(RESP), await open(RESP)]
    const heard = []
    await subscriber.subscribe(`news${RESP}`, (message, channel) => heard.push([channel, message]))
    await subscriber.pSubscribe(`user${RESP}:*`, (message, channel) => heard.push([channel, message]))
    await publisher.publish(`news${RESP}`, 'hello')
    await publisher.publish(`user${RESP}:1`, 'there')
    await waitUntil('both were heard', () => heard.length === 2)
    assert.deepEqual(heard, [[`news${RESP}`, 'hello'], [`user${RESP}:1`, 'there']])
    await subscriber.unsubscribe(`news${RESP}`)
    await subscriber.pUnsubscribe(`user${RESP}:*`)
  })

  test(`RESP${RESP}: keys of the sidecar are not listed`, async () => {
    const redis = await open(RESP)
    await redis.set(key('listed'), 'x')
    const listed = []
    for await (const keys of redis.scanIterator({ COUNT: 100 })) listed.push(...[keys].flat())
    assert.ok(listed.includes(key('listed')))
    assert.deepEqual(listed.filter((name) => name.startsWith('parallax:')), [])
    await assert.rejects(redis.del('parallax:outbox'), /PARALLAX/)
  })
}
