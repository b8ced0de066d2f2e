// OpenFeature's OFREP provider for servers, unmodified, asks a real sidecar which store a key is read from.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { OFREPProvider } from '@openfeature/ofrep-provider'
import { OpenFeature } from '@openfeature/server-sdk'

import { Sidecar } from '../support/sidecar.mjs'

/** How many keys are asked for at each percent. */
const KEYS = 300

let sidecar
let client

before(async () => {
  sidecar = await Sidecar.start()
  await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl: sidecar.admin }))
  client = OpenFeature.getClient()
})

after(async () => {
  await OpenFeature.close()
  await sidecar?.stop()
})

const post = (path, body) =>
  sidecar.fetch(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })

const asked = (flag, targetingKey) =>
  client.getStringDetails(flag, 'nothing', targetingKey === undefined ? {} : { targetingKey })

test('in a stage that reads redis the answer is redis for every key, and for none', async () => {
  for (const key of [undefined, 'thing:1']) {
    const { value, variant, reason, flagMetadata } = await asked('thing', key)
    assert.deepEqual([value, variant, reason], ['redis', 'redis', 'STATIC'])
    assert.equal(flagMetadata.stage, 'off')
    assert.equal(flagMetadata.lease, true)
    assert.equal(typeof flagMetadata.version, 'number')
  }
})

test('each mistake is told by the error code of OpenFeature, and the default is used', async () => {
  for (const [flag, key, code] of [
    ['no-such-kind', 'thing:1', 'FLAG_NOT_FOUND'],
    ['thing', 'other:1', 'INVALID_CONTEXT'],
    ['thing', 'parallax:outbox', 'INVALID_CONTEXT'],
    ['*', undefined, 'TARGETING_KEY_MISSING'],
  ]) {
    const { value, errorCode, reason } = await asked(flag, key)
    assert.deepEqual([value, errorCode, reason], ['nothing', code, 'ERROR'], `${flag} ${key}`)
  }
})

test('in live the provider names the store that answers the read', async () => {
  const keys = Array.from({ length: KEYS }, (_, number) => `thing:${number}`)
  const written = await post('/redis/pipeline', keys.map((key) => ['SET', key, 'value']))
  assert.equal(written.status, 200)
  await sidecar.flag({ stage: 'dualwrite' })
  await sidecar.raiseToLive()
  await sidecar.drained()
  for (const percent of [100, 37.5, 0]) {
    await sidecar.flag({ percent })
    let fromPostgres = 0
    for (const key of keys) {
      const details = await asked('*', key)
      const read = await post('/redis', ['GET', key])
      assert.equal(details.value, read.headers.get('parallax-source'), `${key} at ${percent} %`)
      assert.equal(details.reason, percent === 37.5 ? 'SPLIT' : 'STATIC')
      assert.equal(details.flagMetadata.kind, 'thing')
      fromPostgres += details.value === 'postgres'
    }
    const isFew = percent === 37.5 && fromPostgres > KEYS / 5 && fromPostgres < KEYS / 2
    assert.ok(isFew || fromPostgres === (KEYS * percent) / 100, `${fromPostgres} at ${percent} %`)
  }
  await sidecar.flag({ percent: 37.5 })
  assert.equal((await asked('thing')).errorCode, 'TARGETING_KEY_MISSING')
})
